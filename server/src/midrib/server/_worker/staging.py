"""Batches in shared memory, from the side of the server's process: written before a pass, read after it. numpy only."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypeAlias

import numpy as np

from midrib.server._compute.joining import join_into, joined_shape, lie_staged, split_rows, staged_dtype
from midrib.server._engine.compute import Arrays
from midrib.server._shared_memory.memory import ClientMemory, client_memory
from midrib.server._worker.messages import ERROR, ROWS, BatchLocation, Prepared, Region
from midrib.server._worker.shared_buffer import SharedBuffer
from midrib.wire import Array, aligned

# The most bytes of one feature: the size of a float64.
_FEATURE_BYTES = 8
_REMEMBERED = 256
# A smaller item is copied. In pairs, computing in place took 1.05 of the time for one image of 3x224x224, and 0.8 for
# eight.
_MIN_BYTES_IN_PLACE = 1 << 20
# The dtype and the shape of an array of the batch.
_Layout: TypeAlias = tuple[str, tuple[int, ...]]


class BatchFailedError(RuntimeError):
    """The module raised in the worker; the text is the worker's traceback."""


class StagedPlace:
    """A place in a shared buffer, with its views.

    message: the encoded place.  inputs: views to write to; none if the inputs lie in a client's memory.
    result_shape: the shape of the rows.  buffer_index: the index of the shared buffer.
    writes_to_client: whether the rows go to the client's memory, and not to the shared buffer.
    """

    def __init__(
        self, place: BatchLocation, buffer: SharedBuffer, buffer_index: int, result_shape: tuple[int, ...]
    ) -> None:
        self.buffer_index = buffer_index
        self.message = place.encode()
        regions = place.inputs if place.buffer == buffer_index else ()
        self.inputs = [buffer.view(region.offset, region.dtype, region.shape) for region in regions]
        self.result_shape = result_shape
        self.writes_to_client = place.result_buffer != buffer_index
        self._offset = place.result_offset
        self._buffer = buffer
        self._reply: bytes | None = None
        self._rows: Array = np.empty(0)

    def rows(self, reply: bytes) -> Array:
        """Return a view of the rows [rows, num_features] that a reply is about. reply: without its number.

        Raises BatchFailedError if the module raised or if the rows have another shape, ValueError for another message.
        """
        if reply != self._reply:
            self._rows = self._buffer.view(*self._checked(reply))
            self._reply = reply
        return self._rows

    def client_rows(self, memory: ClientMemory, reply: bytes) -> Array:
        """Return a view of the rows [rows, num_features] in the client's memory. Raises as `rows` does."""
        return memory.view(*self._checked(reply))

    def _checked(self, reply: bytes) -> tuple[int, str, tuple[int, ...]]:
        """Return the offset, dtype and shape of the rows. Raises as `rows` does."""
        if reply[:1] == ERROR:
            raise BatchFailedError(f"the module raised in its worker:\n{reply[1:].decode(errors='replace')}")
        if reply[:1] != ROWS:
            raise ValueError(f"a reply that begins with {reply[:1]!r}, expected {ROWS!r} or {ERROR!r}")
        region, _ = Region.decode(reply, 1)
        if region.shape != self.result_shape or region.offset != self._offset:
            raise BatchFailedError(f"the module returned {list(region.shape)}, expected {list(self.result_shape)}")
        return region.offset, region.dtype, region.shape


class BatchTransfer:
    """Writes batches into the shared buffers of a worker, and reads their rows."""

    def __init__(self, buffers: Sequence[SharedBuffer], prepared: Prepared) -> None:
        self._buffers = buffers
        self._dtypes = prepared.dtypes
        self._width = prepared.width
        self._places: dict[Hashable, StagedPlace] = {}

    def write(self, buffer: int, items: Sequence[Arrays]) -> StagedPlace:
        """Write the arrays [rows, ...] of a batch into a buffer, converted to the staged dtypes; pixels stay uint8.

        Raises ValueError for arrays that do not fit together.
        """
        columns = list(zip(*items, strict=True))
        layouts = tuple(
            (staged_dtype(arrays, dtype), joined_shape(arrays))
            for arrays, dtype in zip(columns, self._dtypes, strict=False)
        )
        staged = self._places.get((buffer, layouts))
        if staged is None:
            staged = self._place(buffer, layouts)
        for view, arrays in zip(staged.inputs, columns, strict=True):
            join_into(view, arrays)
        return staged

    def memory_of(self, items: Sequence[Arrays]) -> ClientMemory | None:
        """Return the client's memory in which arrays [rows, ...] lie as they would be staged; None to copy them."""
        if len(items) != 1 or items[0][0].nbytes < _MIN_BYTES_IN_PLACE or not lie_staged(items[0], self._dtypes):
            return None
        memories = {client_memory(array) for array in items[0]}
        return memories.pop() if len(memories) == 1 else None

    def in_place(self, buffer: int, memory: ClientMemory, arrays: Arrays) -> StagedPlace:
        """Return the place of a batch of one item in a client's memory. arrays: those of the item, [rows, ...].

        The rows go to the place in this memory that the client named for them, or to the buffer if it named none.
        """
        regions = tuple(Region(memory.offset_of(array), array.dtype.name, array.shape) for array in arrays)
        shape = self._result_shape([array.shape for array in arrays])
        size = _FEATURE_BYTES * math.prod(shape)
        result = memory.result_place(arrays[0]) if len(arrays) == 1 else None
        in_client = result is not None and result.size_bytes >= size
        where = (memory.number, result.offset) if result is not None and in_client else (buffer, 0)
        key = (buffer, memory.number, regions, where)
        if key not in self._places:
            self._remember(key, BatchLocation(memory.number, regions, *where, size), buffer, shape)
        return self._places[key]

    def read(self, staged: StagedPlace, reply: bytes, items: Sequence[Arrays]) -> list[Array]:
        """Return the rows [rows, num_features] of each item, views of a copy: the next batch overwrites the buffer.

        reply: without its number.  Raises as `StagedPlace.rows` does.
        """
        return split_rows(staged.rows(reply).copy(), [len(arrays[0]) for arrays in items])

    def _place(self, buffer: int, layouts: tuple[_Layout, ...]) -> StagedPlace:
        regions, offset = [], 0
        for dtype, shape in layouts:
            region = Region(offset, dtype, shape)
            regions.append(region)
            offset = aligned(offset + np.dtype(dtype).itemsize * region.elements)
        result_shape = self._result_shape([shape for _, shape in layouts])
        place = BatchLocation(buffer, tuple(regions), buffer, offset, _FEATURE_BYTES * math.prod(result_shape))
        return self._remember((buffer, layouts), place, buffer, result_shape)

    def _remember(
        self, key: Hashable, place: BatchLocation, buffer_index: int, result_shape: tuple[int, ...]
    ) -> StagedPlace:
        """Make room in the buffer for the rows of a place; return the place with its views."""
        if len(self._places) >= _REMEMBERED:
            self._places.clear()
        buffer = self._buffers[buffer_index]
        if place.result_buffer == buffer_index:
            buffer.grow(place.result_offset + place.result_bytes)
        staged = self._places[key] = StagedPlace(place, buffer, buffer_index, result_shape)
        return staged

    def _result_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape of the rows: one for each row of the input; a gradient has the shape of its input."""
        return (shapes[0][0], self._width) if len(shapes) == 1 else shapes[0]

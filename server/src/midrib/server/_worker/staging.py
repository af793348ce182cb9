"""Batches in shared memory, from the side of the server's process: written before a pass, read after it. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from midrib.server._compute.joining import join_into, joined_shape, split_rows
from midrib.server._engine.compute import Arrays
from midrib.server._worker.messages import ERROR, ROWS, Place, Prepared, Region
from midrib.server._worker.shared_buffer import SharedBuffer
from midrib.wire import Array

_ALIGNMENT = 64
# The most bytes of one feature: the size of a float64.
_FEATURE_BYTES = 8
_REMEMBERED = 256


class BatchFailedError(RuntimeError):
    """The module raised in the worker; the text is the worker's traceback."""


class StagedPlace:
    """A place in a shared buffer, with its views.

    message: the encoded place.  inputs: views to write to.  result_shape: of the rows.
    """

    def __init__(self, place: Place, buffer: SharedBuffer, result_shape: tuple[int, ...]) -> None:
        self.buffer_index = place.buffer
        self.message = place.encode()
        self.inputs = [buffer.view(region.offset, region.dtype, region.shape) for region in place.inputs]
        self.result_shape = result_shape
        self._offset = place.result_offset
        self._buffer = buffer
        self._reply = b""
        self._rows: Array = np.empty(0)

    def rows(self, reply: bytes) -> Array:
        """Return a view of the rows that a reply is about. reply: without its number.

        Raises BatchFailedError if the module raised or if the rows have another shape, ValueError for another message.
        """
        if reply != self._reply:
            self._rows = self._checked(reply)
            self._reply = reply
        return self._rows

    def _checked(self, reply: bytes) -> Array:
        if reply[:1] == ERROR:
            raise BatchFailedError(f"the module raised in its worker:\n{reply[1:].decode(errors='replace')}")
        if reply[:1] != ROWS:
            raise ValueError(f"a reply that begins with {reply[:1]!r}, expected {ROWS!r} or {ERROR!r}")
        region, _ = Region.decode(reply, 1)
        if region.shape != self.result_shape or region.offset != self._offset:
            raise BatchFailedError(f"the module returned {list(region.shape)}, expected {list(self.result_shape)}")
        return self._buffer.view(region.offset, region.dtype, region.shape)


class BatchTransfer:
    """Writes batches into the shared buffers of a worker, and reads their rows."""

    def __init__(self, buffers: Sequence[SharedBuffer], prepared: Prepared) -> None:
        self._buffers = buffers
        self._dtypes = [(name, np.dtype(name).itemsize) for name in prepared.dtypes]
        self._width = prepared.width
        self._places: dict[tuple[int, tuple[tuple[int, ...], ...]], StagedPlace] = {}

    def write(self, buffer: int, items: Sequence[Arrays]) -> StagedPlace:
        """Write the arrays of a batch into a buffer, converted to the staged dtypes.

        Raises ValueError for arrays that do not fit together.
        """
        columns = list(zip(*items, strict=True))
        shapes = tuple(joined_shape(arrays) for arrays in columns)
        staged = self._places.get((buffer, shapes))
        if staged is None:
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            staged = self._places[buffer, shapes] = self._place(buffer, shapes)
        for view, arrays in zip(staged.inputs, columns, strict=True):
            join_into(view, arrays)
        return staged

    def read(self, staged: StagedPlace, reply: bytes, items: Sequence[Arrays]) -> list[Array]:
        """Return the rows of each item: views of one copy, because the next batch overwrites the buffer.

        reply: without its number.  Raises as `StagedPlace.rows` does.
        """
        return split_rows(staged.rows(reply).copy(), [len(arrays[0]) for arrays in items])

    def _place(self, buffer: int, shapes: Sequence[tuple[int, ...]]) -> StagedPlace:
        regions, offset = [], 0
        for (dtype, itemsize), shape in zip(self._dtypes, shapes, strict=False):
            region = Region(offset, dtype, shape)
            regions.append(region)
            offset = _aligned(offset + itemsize * region.elements)
        # One row for each row of the input; a gradient has the shape of its input.
        result_shape = (shapes[0][0], self._width) if len(shapes) == 1 else shapes[0]
        place = Place(buffer, tuple(regions), offset, _FEATURE_BYTES * math.prod(result_shape))
        self._buffers[buffer].grow(offset + place.result_bytes)
        return StagedPlace(place, self._buffers[buffer], result_shape)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT

"""The memory of a segment, as the arrays in it lead to it. numpy only: workers use it too."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from midrib.wire import Array

# Smaller numbers are those of a worker's staging buffers.
_NUMBERS = itertools.count(1 << 8)


class ResultPlace(NamedTuple):
    """The bytes in a client's memory for the result of an item with `rows` rows, at a checked offset."""

    rows: int
    offset: int
    size_bytes: int


class ClientMemory(mmap.mmap):
    """Memory that a client may write to at any time. It is unmapped with the last array that refers to it.

    number: names this memory to workers.  descriptor: workers map it by this; -1 in a worker.
    """

    number: int = 0
    descriptor: int = -1
    _start: int = 0
    _result_places: dict[int, ResultPlace]

    def __new__(cls, descriptor: int, size_bytes: int) -> Self:
        """Map the memory of a descriptor."""
        memory = super().__new__(cls, descriptor, size_bytes)
        memory._result_places = {}  # noqa: SLF001 - its own attribute
        return memory

    def keep(self, descriptor: int) -> None:
        """Number the memory, and close its descriptor when it is unmapped."""
        self.number, self.descriptor = next(_NUMBERS), descriptor
        self._start = _address(np.frombuffer(self, np.uint8))
        weakref.finalize(self, os.close, descriptor)

    def offset_of(self, array: Array) -> int:
        """Return the offset of the first byte of an array [...] that lies in this memory."""
        return _address(array) - self._start

    def view(self, offset: int, dtype: np.dtype[Any] | str, shape: Sequence[int]) -> Array:
        """Return the bytes at an offset as an array [*shape]. Raises TypeError if they are not in the memory."""
        array: Array = np.ndarray(shape, dtype, self, offset)
        return array

    def add_result_place(self, offset: int, place: ResultPlace) -> None:
        """Remember the place for the result of an input that begins at an offset."""
        self._result_places[offset] = place

    def remove_result_place(self, offset: int) -> None:
        """Forget the place for the result of an input."""
        self._result_places.pop(offset, None)

    def result_place(self, array: Array) -> ResultPlace | None:
        """Return the place for the result of an input [rows, ...] that lies in this memory.

        None if the client did not name a place, or if the array is only a part of the input.
        """
        place = self._result_places.get(self.offset_of(array))
        return place if place is not None and place.rows == len(array) else None

    def when_unmapped(self, callback: Callable[[], None]) -> weakref.finalize[..., ClientMemory]:
        """Have the running event loop call a function once the memory is unmapped; `detach` prevents it."""
        released = weakref.finalize(self, _call_on, asyncio.get_running_loop(), callback)
        released.atexit = False
        return released


def client_memory(array: Array) -> ClientMemory | None:
    """Return the memory in which an array [...] lies; None for an array in memory of this process only."""
    base = array.base
    while base is not None and not isinstance(base, ClientMemory):
        base = getattr(base, "base", None)
    return base


def written_result(array: Array, rows: Array) -> Array:
    """Write the result of an input into the client's memory, and return the view of it there.

    array: the input, [rows, ...].  rows: the result, [rows, num_features].
    Returns `rows` itself if the input is not in a client's memory, or if the client named no large enough place.
    """
    memory = client_memory(array)
    place = None if memory is None else memory.result_place(array)
    if memory is None or place is None or rows.nbytes > place.size_bytes:
        return rows
    view = memory.view(place.offset, rows.dtype, rows.shape)
    np.copyto(view, rows)
    return view


def same_elements(array: Array, other: Array) -> bool:
    """Return whether two arrays [...] are the same bytes of memory, in one layout."""
    same_type = (array.dtype, array.shape, array.strides) == (other.dtype, other.shape, other.strides)
    return same_type and _address(array) == _address(other)


def is_shared(array: Array) -> bool:
    """Return whether an array [...] lies in the memory of a segment."""
    return client_memory(array) is not None


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _call_on(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run a callback on an event loop, from any thread, unless the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)

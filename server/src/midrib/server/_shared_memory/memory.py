"""The memory of a segment, as the arrays in it lead to it. numpy only: workers use it too."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import mmap
import os
import weakref
from collections.abc import Callable

import numpy as np

from midrib.wire import Array

# Smaller numbers are those of a worker's staging buffers.
_NUMBERS = itertools.count(1 << 8)


class ClientMemory(mmap.mmap):
    """Memory that a client may write to at any time. It is unmapped with the last array that refers to it.

    number: of this memory, for workers.  descriptor: for workers to map it by; -1 in a worker.
    """

    number: int = 0
    descriptor: int = -1
    _start: int = 0

    def keep(self, descriptor: int) -> None:
        """Number the memory, and close its descriptor when it is unmapped."""
        self.number, self.descriptor = next(_NUMBERS), descriptor
        self._start = _address(np.frombuffer(self, np.uint8))
        weakref.finalize(self, os.close, descriptor)

    def offset_of(self, array: Array) -> int:
        """Return the offset of the first byte of an array [...] that lies in this memory."""
        return _address(array) - self._start

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

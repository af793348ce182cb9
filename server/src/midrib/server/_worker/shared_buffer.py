"""Anonymous memory that the server's process and a worker both map: it has no name and needs no /dev/shm."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from midrib.server._shared_memory.memory import ClientMemory
from midrib.wire import Array

_PAGE = mmap.PAGESIZE


class Viewable(Protocol):
    """Memory of which a worker makes arrays."""

    def view(self, offset: int, dtype: str, shape: Sequence[int]) -> Array:
        """Return the bytes at an offset as an array [*shape]."""
        ...


class MappedMemory:
    """A client's memory in a worker. Raises OSError if it cannot be mapped.

    descriptor: closed here, also after an error.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        try:
            self._memory = ClientMemory(descriptor, size_bytes)
        finally:
            os.close(descriptor)

    def view(self, offset: int, dtype: str, shape: Sequence[int]) -> Array:
        """Return the bytes at an offset as an array [*shape]. Raises TypeError if they are not in the memory."""
        return self._memory.view(offset, dtype, shape)


class SharedBuffer:
    """A file of memory by its descriptor, which is closed with the last reference: never while a thread still uses it.

    It only grows, up to the largest batch.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._bytes: Array = np.empty(0, np.uint8)

    def grow(self, size: int) -> None:
        """Make the file at least as large as `size` bytes; only the server's process calls this."""
        if len(self._bytes) < size and os.fstat(self.descriptor).st_size < size:  # grown since it was mapped
            os.ftruncate(self.descriptor, _rounded(size))

    def view(self, offset: int, dtype: str, shape: Sequence[int]) -> Array:
        """Return the bytes at an offset as an array [*shape]; maps the file again if it has grown."""
        kind = np.dtype(dtype)
        end = offset + kind.itemsize * int(np.prod(shape, dtype=np.int64))
        if end > len(self._bytes):
            self._map_again(end)
        return self._bytes[offset:end].view(kind).reshape(shape)

    def _map_again(self, end: int) -> None:
        """Map the bytes before `end`, and not the whole file: the other process may have made it larger than memory.

        A mapping has a descriptor of its own, and views keep it: so there are few.
        Raises ValueError beyond the end of the file.
        """
        size = os.fstat(self.descriptor).st_size
        if end > size:
            raise ValueError(f"{end} bytes of a shared buffer of {size} bytes were requested")
        self._bytes = np.frombuffer(mmap.mmap(self.descriptor, min(_rounded(end), size)), np.uint8)


def _rounded(size: int) -> int:
    """Return the next power of two, at least a page; pages that nobody writes take no memory."""
    return max(_PAGE, 1 << (size - 1).bit_length())


def lend(view: Array, on_release: Callable[[], object]) -> Array:
    """Return a view [...] of the same elements; call `on_release` once nothing refers to it or to a view of it.

    numpy's views refer to the array that owns the memory, or to the first array on a buffer. So this view is made from
    a buffer: the views of it refer to it, and not to the argument.
    """
    lent = np.frombuffer(view.data.cast("B"), view.dtype)
    weakref.finalize(lent, on_release).atexit = False
    return lent.reshape(view.shape)


def new_shared_buffer() -> SharedBuffer:
    """Return an empty buffer whose descriptor a worker can inherit.

    On Linux it is sealed against shrinking, because this process's next access would then end it by SIGBUS, and against
    further seals, such as one that forbids writing.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("midrib-batch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return SharedBuffer(descriptor)
    with tempfile.TemporaryFile() as file:  # macOS: a file without a name, in memory as far as the system has room
        return SharedBuffer(os.dup(file.fileno()))

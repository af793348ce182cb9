"""Anonymous memory that the server's process and a worker both map: it has no name and needs no /dev/shm."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence

import numpy as np

from midrib.wire import Array

_PAGE = mmap.PAGESIZE


class SharedBuffer:
    """A file of memory by its descriptor, which is closed with the last reference: never while a thread still uses it.

    It only grows, up to the largest batch.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._map: mmap.mmap | None = None
        self._bytes: Array = np.empty(0, np.uint8)

    def grow(self, size: int) -> None:
        """Make the file at least as large as `size` bytes; only the server's process calls this."""
        if len(self._bytes) < size:
            os.ftruncate(self.descriptor, -(-size // _PAGE) * _PAGE)

    def view(self, offset: int, dtype: str, shape: Sequence[int]) -> Array:
        """Return the bytes at an offset as an array; maps the file again if it has grown."""
        kind = np.dtype(dtype)
        end = offset + kind.itemsize * int(np.prod(shape, dtype=np.int64))
        if end > len(self._bytes):
            size = os.fstat(self.descriptor).st_size
            if end > size:
                raise ValueError(f"bytes {offset}..{end} of a shared buffer of {size} bytes were requested")
            self._map = mmap.mmap(self.descriptor, size)
            self._bytes = np.frombuffer(self._map, np.uint8)
        return self._bytes[offset:end].view(kind).reshape(shape)


def new_shared_buffer() -> SharedBuffer:
    """Return an empty buffer whose descriptor a worker can inherit."""
    if hasattr(os, "memfd_create"):
        return SharedBuffer(os.memfd_create("midrib-batch"))
    with tempfile.TemporaryFile() as file:  # macOS: a file without a name, in memory as far as the system has room
        return SharedBuffer(os.dup(file.fileno()))

"""A segment that this process shares with a server, and the places in it that messages use."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from bisect import insort
from collections.abc import Sequence

import numpy as np

from midrib.v1.embedding_pb2 import SharedTensor
from midrib.wire import Array, aligned, checked_size, dtype_from_code


class MappedSegment:
    """Memory of a descriptor, which the caller closes.

    size_bytes: the size of the memory.  Raises OSError if it is smaller, or not sealed against shrinking, because an
    access could fail.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        if not seals & fcntl.F_SEAL_SHRINK or os.fstat(descriptor).st_size < size_bytes:
            raise OSError(f"the server's memory can shrink, or has less than {size_bytes} bytes")
        self.size_bytes = size_bytes
        self._memory = mmap.mmap(descriptor, size_bytes)
        self._memory.madvise(mmap.MADV_DONTFORK)  # a forked child opens its own streams
        self._used: list[tuple[int, int]] = []

    def has_room(self, size: int) -> bool:
        """Return whether a place of `size` bytes is free."""
        return self._gap(aligned(size)) is not None

    def allocate(self, size: int) -> int | None:
        """Return the offset of a free place of `size` bytes; None if there is none now."""
        size = aligned(size)
        offset = self._gap(size)
        if offset is not None:
            insort(self._used, (offset, size))
        return offset

    def _gap(self, size: int) -> int | None:
        """Return the first offset with `size` free bytes: the same pages are used repeatedly."""
        start = 0
        for offset, used in self._used:
            if offset - start >= size:
                break
            start = offset + used
        return start if start + size <= self.size_bytes else None

    def free(self, offset: int) -> None:
        """Give back the place that begins at an offset."""
        self._used = [place for place in self._used if place[0] != offset]

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        """Write parts one behind the other, beginning at an allocated offset."""
        for part in parts:
            size = len(part)
            np.copyto(np.ndarray(size, np.uint8, self._memory, offset), np.frombuffer(part, np.uint8))
            offset += size

    def tensor(self, shared: SharedTensor) -> Array:
        """Return a view [rows, ...] of a tensor that the server has written.

        Raises ValueError if the tensor is not inside the segment.
        """
        dtype, shape = dtype_from_code(shared.dtype), tuple(shared.shape)
        size = checked_size(shape, dtype.itemsize, field="result.shared.shape")
        if shared.offset + size > self.size_bytes:
            raise ValueError(f"{size} bytes at {shared.offset} are not inside a segment of {self.size_bytes} bytes")
        return np.ndarray(shape, dtype, self._memory, shared.offset)

    def close(self) -> None:
        """Unmap the memory, or have it unmapped with the last view of it."""
        with contextlib.suppress(BufferError):
            self._memory.close()

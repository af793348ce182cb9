"""Memory for one large message, filled as its bytes arrive, so that no step copies the whole message."""

from __future__ import annotations

import mmap
from typing import TypeAlias

Buffer: TypeAlias = bytes | memoryview
"""A message: bytes if it is small, and a read-only view of its memory if it is large."""

# Copying this many bytes at once takes a fraction of a millisecond.
LARGE_BYTES = 2**20


class LargeBuffer:
    """The memory of a message of `size` bytes. Pages that are not filled take no memory."""

    __slots__ = ("_filled", "_view")

    def __init__(self, size: int) -> None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):  # page faults would take longer than copying, and freeing too
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(memory)
        self._filled = 0

    @property
    def missing(self) -> int:
        """The bytes that have not arrived."""
        return len(self._view) - self._filled

    def room(self, max_bytes: int) -> memoryview:
        """Return memory for the next bytes, at most `max_bytes`; `grow` counts those that are written there."""
        return self._view[self._filled : self._filled + max_bytes]

    def grow(self, size: int) -> None:
        """Count bytes that were written to `room`."""
        self._filled += size

    def add(self, data: Buffer) -> int:
        """Copy the bytes that are missing from the start of `data`; return their number."""
        size = min(len(data), self.missing)
        self._view[self._filled : self._filled + size] = data[:size]
        self._filled += size
        return size

    def message(self) -> memoryview:
        """Return the message once nothing is missing; it cannot be changed."""
        return self._view.toreadonly()

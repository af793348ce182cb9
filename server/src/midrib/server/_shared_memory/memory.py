"""The memory of a segment, as the arrays in it lead to it. numpy only: workers use it too."""

from __future__ import annotations

import mmap

from midrib.wire import Array


class ClientMemory(mmap.mmap):
    """Memory that a client may write to at any time. It is unmapped with the last array that refers to it."""


def client_memory(array: Array) -> ClientMemory | None:
    """Return the memory in which an array lies; None for an array in memory of this process only."""
    base = array.base
    while base is not None and not isinstance(base, ClientMemory):
        base = getattr(base, "base", None)
    return base


def is_shared(array: Array) -> bool:
    """Return whether an array lies in the memory of a segment."""
    return client_memory(array) is not None

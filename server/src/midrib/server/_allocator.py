"""A process that serves keeps the memory that its forward passes freed, for the next ones.

By itself glibc hands a pass's large tensors back to the kernel, which has to clear them again page by page: a fifth of
EfficientNet-Lite0's processor time. Threads keep their arenas: one for all took 7 % of the rate of small calls, and
beyond the 64 MiB of an arena's heap, which goes back whatever the thresholds, `_pieces` seldom gets.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping

# mallopt's parameters, by malloc.h; larger tensors still come from the kernel, and what is free beyond goes back to it.
_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": (-1, 256 * 2**20),
}


def keep_freed_memory(
    environment: Mapping[str, str] = os.environ, mallopt: Callable[[int, int], int] | None = None
) -> None:
    """Set glibc's thresholds; elsewhere, nothing. One that a variable of glibc's has set stays."""
    if mallopt is None:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return
    for variable, (parameter, value) in _SETTINGS.items():
        if variable not in environment:
            mallopt(parameter, value)


def give_memory_back() -> None:
    """Have glibc return all that is free: what a load, or a backbone that has left, took is for no forward pass."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)

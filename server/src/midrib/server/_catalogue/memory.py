"""Memory that `keep_freed_memory` keeps for forward passes goes back where no pass needs it."""

from __future__ import annotations

import ctypes
import os


def give_memory_back() -> None:
    """Have glibc return all that is free: what a load, or a backbone that has left, took is for no forward pass."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)

"""Return memory to the system that `keep_freed_memory` keeps for forward passes."""

from __future__ import annotations

import ctypes
import os


def give_memory_back() -> None:
    """Have glibc return its free memory, which a load or an unloaded backbone has left and no pass will use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)

"""A process that computes on a CPU keeps the memory that its forward passes freed, for the next ones.

By itself glibc hands a pass's large tensors back to the kernel, which has to clear them again page by page:
EfficientNet-Lite0 takes 84 ms an image so, and 46 with the memory kept (one thread, batches of eight). Threads keep
their arenas, of whose heaps more than 64 MiB goes back whatever the thresholds: one for all took 7 % of the rate of a
server's small calls.
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
    """Have this process keep up to 256 MiB of freed memory, for tensors of up to 64 MiB; call it before the first pass.

    It is of the whole process, so no library does it by itself; `midrib serve` does. glibc's alone: elsewhere, nothing
    happens. One that a variable of glibc's (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`) has set stays.
    environment, mallopt: the process's own where absent.
    """
    if mallopt is None:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return
    for variable, (parameter, value) in _SETTINGS.items():
        if variable not in environment:
            mallopt(parameter, value)

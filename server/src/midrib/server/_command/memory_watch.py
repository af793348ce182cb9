"""Bounds the freed memory that the server's process keeps for its next messages."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from pathlib import Path

from midrib.backbones import keep_freed_memory, release_freed_memory, return_freed_memory
from midrib.server._settings import MEBI

_LOOK_S = 0.05
# Above the first growth, freed memory is returned at once; below the second one, it is kept again.
_MUCH_BYTES = 16 * MEBI
_LITTLE_BYTES = 8 * MEBI
# The free pages inside the heap are returned again once the process has grown by this since the last time.
_STEP_BYTES = MEBI


def resident_bytes() -> int:
    """Return the resident memory of this process, without memory that it shares; 0 if the system does not tell."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * mmap.PAGESIZE


class MemoryWatch:
    """Keeps freed memory while the process is small, because that is faster, and returns it under a flood of messages.

    resident: returns the resident bytes of this process.
    """

    def __init__(self, resident: Callable[[], int] = resident_bytes) -> None:
        self.returns = False
        self._resident = resident
        self._loop = asyncio.get_running_loop()
        self._least = resident()
        self._trimming: asyncio.Future[None] | None = None
        self._trimmed: int | None = None  # the resident bytes at the first look after the last trim
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        resident = self._resident()
        self._least = min(self._least, resident)
        growth = resident - self._least
        if growth > _MUCH_BYTES:
            if not self.returns:
                return_freed_memory()
            self.returns = True
            self._trim(resident)
        elif self.returns and growth < _LITTLE_BYTES:
            keep_freed_memory()
            self.returns = False

    def _trim(self, resident: int) -> None:
        """Return the free pages inside the heap too; a thread does so, because it takes milliseconds.

        A process that stays larger than it was, because it has loaded another backbone, has none left after the first
        time.
        """
        if self._trimming is not None and not self._trimming.done():
            return
        if self._trimming is not None:
            self._trimming, self._trimmed = None, resident
        if self._trimmed is not None:
            self._trimmed = min(self._trimmed, resident)
        if self._trimmed is None or resident > self._trimmed + _STEP_BYTES:
            self._trimming = self._loop.run_in_executor(None, release_freed_memory)

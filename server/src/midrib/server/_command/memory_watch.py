"""Bounds the freed memory that the server's process keeps for its next messages."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
from collections.abc import Callable

from midrib.backbones import keep_freed_memory, release_freed_memory, return_freed_memory
from midrib.server._settings import MEBI

_LOOK_S = 0.05
# If the process has grown by the first number of bytes, freed memory is returned at once; below the second, it is kept.
_MUCH_BYTES = 16 * MEBI
_LITTLE_BYTES = 8 * MEBI
# The free pages inside the heap are returned again once the process has grown by this since the last time.
_STEP_BYTES = MEBI
# A process that is large at this number of looks in sequence (10 seconds) needs its memory: its size counts as small.
_LOOKS_UNTIL_LASTING = 200
_STATM_BYTES = 256


class OwnMemory:
    """The memory of this process, read from a file that stays open: opening it took most of the time of a look."""

    def __init__(self) -> None:
        self._file = -1
        with contextlib.suppress(OSError):
            self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def resident_bytes(self) -> int:
        """Return the resident memory, without memory that other processes share; 0 if it is unknown."""
        if self._file < 0:
            return 0
        _, resident, shared, *_ = os.pread(self._file, _STATM_BYTES, 0).split()
        return (int(resident) - int(shared)) * mmap.PAGESIZE

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class MemoryWatch:
    """Keeps freed memory while the process is small, because that is faster, and returns it under a flood of messages.

    resident: returns the resident bytes of a process; by default of this one.
    """

    def __init__(self, resident: Callable[[], int] | None = None) -> None:
        self.returns = False
        self._memory = OwnMemory()
        self._resident = resident or self._memory.resident_bytes
        self._loop = asyncio.get_running_loop()
        self._least = self._resident()
        self._looks = 0  # while memory is returned, since the last decision on whether the growth lasts
        self._least_grown = 0  # the least resident bytes in these looks
        self._trimming: asyncio.Future[None] | None = None
        self._trimmed: int | None = None  # the resident bytes at the first look after the last trim
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    def close(self) -> None:
        """Stop looking."""
        self._timer.cancel()
        self._memory.close()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        resident = self._resident()
        self._least = min(self._least, resident)
        growth = resident - self._least
        if growth > _MUCH_BYTES:
            if not self.returns:
                return_freed_memory()
                self._looks = 0
            self.returns = True
            self._trim(resident)
            self._accept_lasting_growth(resident)
        elif self.returns and growth < _LITTLE_BYTES:
            keep_freed_memory()
            self.returns = False

    def _accept_lasting_growth(self, resident: int) -> None:
        """Count the least size of the last ten seconds as small: the process needs that memory.

        It has loaded another backbone, for example. Without this, it would return freed memory until it ends, which
        makes its calls slower.
        """
        self._least_grown = min(self._least_grown, resident) if self._looks else resident
        self._looks += 1
        if self._looks >= _LOOKS_UNTIL_LASTING:
            self._least, self._looks = self._least_grown, 0

    def _trim(self, resident: int) -> None:
        """Return the free pages inside the heap too; a thread does so, because it takes milliseconds.

        If the process stays larger, because it has loaded another backbone, no free page is left after the first time.
        """
        if self._trimming is not None and not self._trimming.done():
            return
        if self._trimming is not None:
            self._trimming, self._trimmed = None, resident
        if self._trimmed is not None:
            self._trimmed = min(self._trimmed, resident)
        if self._trimmed is None or resident > self._trimmed + _STEP_BYTES:
            self._trimming = self._loop.run_in_executor(None, release_freed_memory)

"""The load that other processes put on the processors while a measurement runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# A measurement counts as disturbed if other processes used more than this share of the processors meanwhile.
BUSY_SHARE = 0.15
_STAT = Path("/proc/stat")
# The columns of a processor's line in /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. The columns
# behind them are parts of `user` and `nice`.
_COLUMNS = 8
_IDLE_COLUMNS = (3, 4)


class OtherLoad:
    """Measures, from its creation on, the time of this process's processors that other processes use.

    stat: a file as Linux's /proc/stat. Without it, other processes count as idle.
    own_s: returns the processor time of this process, in seconds.
    """

    def __init__(self, stat: Path = _STAT, own_s: Callable[[], float] = time.process_time) -> None:
        self._stat, self._own_s = stat, own_s
        self._usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._before = self._now()

    def share(self) -> float:
        """Return the share of the processors that other processes have used, from 0 to 1."""
        total_s, used_s, own_s = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return min(1.0, max(0.0, used_s - own_s) / total_s) if total_s > 0 else 0.0

    def busy(self) -> bool:
        """Return whether other processes have used too much for a measurement to count."""
        return self.share() > BUSY_SHARE

    def _now(self) -> tuple[float, float, float]:
        """Return the seconds of all usable processors, those in use, and those of this process."""
        try:
            processors = [columns for columns in self._columns() if len(columns) == _COLUMNS]
        except (OSError, ValueError):
            processors = []
        total = sum(sum(columns) for columns in processors)
        idle = sum(columns[column] for columns in processors for column in _IDLE_COLUMNS)
        ticks = os.sysconf("SC_CLK_TCK")
        return total / ticks, (total - idle) / ticks, self._own_s()

    def _columns(self) -> Iterator[list[int]]:
        """Yield the columns of each usable processor's line."""
        names = {f"cpu{index}" for index in self._usable}
        for line in self._stat.read_text().splitlines():
            name, *columns = line.split()
            if name in names:
                yield [int(column) for column in columns[:_COLUMNS]]

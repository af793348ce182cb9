"""Load: callers in a closed loop, and what they saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Of a measurement's time, before anything counts.
WARM_UP = 0.2
_LONGEST_CALL_S = 60.0

Calls = tuple[list[float], list[float]]
"""When each call began and when it ended, in order of their ends."""


@dataclass(frozen=True)
class Sample:
    """One measurement. rate: rows a second.  p50_ms, p99_ms: of a call.  calls: how many were counted."""

    rate: float
    p50_ms: float
    p99_ms: float
    calls: int


class Recorder:
    """Collects the calls that end within so many seconds, after a warm-up; it goes on until they are `least`."""

    def __init__(self, seconds: float, *, least: int) -> None:
        self._least = least
        self.began: list[float] = []
        self.ended: list[float] = []
        self._start = time.monotonic() + WARM_UP * seconds
        self._stop = self._start + seconds

    @property
    def running(self) -> bool:
        """Whether more calls should begin."""
        return time.monotonic() < self._stop or len(self.ended) < self._least

    def add(self, began: float) -> None:
        """A call that began then has ended now."""
        now = time.monotonic()
        if self._start <= now and (now <= self._stop or len(self.ended) < self._least):
            self.began.append(began)
            self.ended.append(now)


async def closed_loop(call: Callable[[int], Awaitable[object]], *, concurrency: int, recorder: Recorder) -> None:
    """So many callers, each calling again as soon as it is answered. An exception of any call ends it all."""

    async def one(caller: int) -> None:
        index = caller
        while recorder.running:
            began = time.monotonic()
            await call(index)
            recorder.add(began)
            index += concurrency

    async with asyncio.timeout(_LONGEST_CALL_S), asyncio.TaskGroup() as group:
        for caller in range(concurrency):
            group.create_task(one(caller))


def sample(began: Sequence[float], ended: Sequence[float], rows: int) -> Sample:
    """What calls of so many rows came to.

    The rate is the slope of the number of answers over time, by least squares: batches answer many callers at once,
    so counting between two instants would be off by up to a batch.
    """
    if not ended:
        raise RuntimeError("no call ended within the measurement: give it more --seconds")
    if len(ended) == 1:
        seconds = ended[0] - began[0]
        return Sample(rows / seconds, 1e3 * seconds, 1e3 * seconds, len(ended))
    took = np.subtract(ended, began) * 1e3
    times = np.subtract(ended, ended[0])
    slope = np.polyfit(times, np.arange(len(times)), 1)[0]
    p50, p99 = np.percentile(took, [50, 99])
    return Sample(float(slope) * rows, float(p50), float(p99), len(ended))

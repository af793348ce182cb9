"""Callers in a closed loop, and the summary of their calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

# The share of a measurement that warms up, before any call counts.
WARM_UP = 0.2
_LONGEST_CALL_S = 60.0

Calls = tuple[list[float], list[float]]
"""The times at which each call began and ended, in order of the ends."""


@dataclass(frozen=True)
class Sample:
    """One measurement. rate: rows per second.  p50_ms, p99_ms: of a call.  calls: the number of counted calls."""

    rate: float
    p50_ms: float
    p99_ms: float
    calls: int


class Recorder:
    """Collects the calls that end within `seconds` after a warm-up, and at least `least` calls."""

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
        """Record a call that ends now. began: on time.monotonic."""
        now = time.monotonic()
        if self._start <= now and (now <= self._stop or len(self.ended) < self._least):
            self.began.append(began)
            self.ended.append(now)


async def closed_loop(call: Callable[[int], Awaitable[object]], *, concurrency: int, recorder: Recorder) -> None:
    """Run `concurrency` callers that call again as soon as they are answered. An exception of a call ends all."""

    async def run_caller(caller: int) -> None:
        index = caller
        while recorder.running:
            began = time.monotonic()
            await call(index)
            recorder.add(began)
            index += concurrency

    async with asyncio.timeout(_LONGEST_CALL_S), asyncio.TaskGroup() as group:
        for caller in range(concurrency):
            group.create_task(run_caller(caller))


def sample(began: Sequence[float], ended: Sequence[float], rows: int) -> Sample:
    """Summarise calls of `rows` rows each. Raises RuntimeError if there are none.

    The rate is the slope of the number of answers over time, by least squares: a batch answers many callers at once,
    so counting between two instants would be wrong by up to a batch.
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

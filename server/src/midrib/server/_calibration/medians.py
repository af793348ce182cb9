"""Interleaved measurements of candidates: other load on the machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

ROUNDS = 3


def medians(
    work: Callable[[int], object],
    candidates: Iterable[int],
    *,
    end: float,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Return the median seconds that the work takes with each candidate.

    end: a time on the clock, after which no round but the first begins.  rounds: measurements per candidate.
    """
    times: dict[int, list[float]] = {candidate: [] for candidate in candidates}
    for done in range(rounds):
        if done and clock() >= end:
            break
        for candidate, spent in times.items():
            spent.append(seconds(partial(work, candidate), clock))
    return {candidate: statistics.median(spent) for candidate, spent in times.items()}


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that the work takes."""
    started = clock()
    work()
    return clock() - started

"""Candidates that take turns at the same work: what else the machine does for a while slows them all alike."""

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
    """The median seconds of the work by each candidate, over so many rounds.

    end: on the clock; no round but the first begins after it.
    """
    times: dict[int, list[float]] = {candidate: [] for candidate in candidates}
    for done in range(rounds):
        if done and clock() >= end:
            break
        for candidate, spent in times.items():
            spent.append(seconds(partial(work, candidate), clock))
    return {candidate: statistics.median(spent) for candidate, spent in times.items()}


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long it takes, by the clock."""
    started = clock()
    work()
    return clock() - started

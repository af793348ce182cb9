"""Choose the fastest of some candidates by measurement, on a machine that does other work too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

Candidate = TypeVar("Candidate", bound=Hashable)

# Trials of each candidate. Fewer than the least say too little about the noise.
_MIN_TRIALS = 7
_MAX_TRIALS = 15
# The least number of trials may take this many times the seconds given: a busy machine is slow, and a choice made by
# fewer trials would differ from load to load.
_OVERTIME = 3.0
# A candidate that is slower than another by this factor at first is not measured again: no other load explains it.
_HOPELESS = 20.0
# A candidate must be faster in this share of the trials. Of two equally fast ones on a busy machine, one is so by
# chance in a few of a thousand loads.
_CONFIDENCE = 0.75
# If only one trial was made, a candidate must be faster by this share: two loads on a busy machine differ as much.
_SINGLE_TRIAL_MARGIN = 0.3


def fastest(
    candidates: Sequence[Candidate],
    work: Callable[[Candidate], object],
    *,
    margin: float,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Candidate:
    """Return the first candidate that the fastest one does not beat by the margin in three of four trials.

    candidates: distinct, the preferred ones first.  work: does the same work by means of a candidate.
    margin: a share of the time, such as 0.1.  seconds: the time to measure in; with 0, nothing is measured.
    The trials are interleaved and compared in pairs, so that other load on the machine slows all candidates alike. If
    seven trials of each would take too long, the choice is made by one, and a candidate must be faster by 30 %.
    """
    if len(candidates) == 1 or seconds <= 0:
        return candidates[0]
    times = _trials(candidates, work, seconds, clock)
    best = min(times, key=lambda candidate: statistics.median(times[candidate]))
    return next(candidate for candidate in times if not _beats(times[best], times[candidate], margin))


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that the work takes."""
    started = clock()
    work()
    return clock() - started


def _trials(
    candidates: Sequence[Candidate],
    work: Callable[[Candidate], object],
    seconds: float,
    clock: Callable[[], float],
) -> dict[Candidate, list[float]]:
    """Return the seconds of each trial of each candidate that is not hopeless, round by round."""
    began = clock()
    warm_up = {candidate: seconds_of(partial(work, candidate), clock) for candidate in candidates}
    hopeless = _HOPELESS * min(warm_up.values())
    hopeful = {candidate: spent for candidate, spent in warm_up.items() if spent <= hopeless}
    if clock() - began + _MIN_TRIALS * sum(hopeful.values()) > _OVERTIME * seconds:
        return {candidate: [spent] for candidate, spent in hopeful.items()}
    times: dict[Candidate, list[float]] = {candidate: [] for candidate in hopeful}
    for done in range(_MAX_TRIALS):
        if done >= _MIN_TRIALS and clock() - began >= seconds:
            break
        for candidate, spent in times.items():
            spent.append(seconds_of(partial(work, candidate), clock))
    return times


def _beats(times: Sequence[float], slower: Sequence[float], margin: float) -> bool:
    """Return whether one candidate is faster than another by the margin, and not only by chance."""
    if len(times) < _MIN_TRIALS:
        margin = max(margin, _SINGLE_TRIAL_MARGIN)
    faster = sum(spent < (1 - margin) * other for spent, other in zip(times, slower, strict=True))
    return faster >= _CONFIDENCE * len(times)

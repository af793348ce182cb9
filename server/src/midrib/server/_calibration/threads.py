"""The number of intra-op threads with which a backbone is fastest on this CPU, by measurement.

(The wrong count costs a small model up to 500 times: its OpenMP threads spin against each other.)
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence

import torch

from midrib.server._calibration import medians

_ROUNDS = 3
_TUNING_S = 2.0
# A candidate slower than the best by this factor is not measured again: no other load explains it.
_HOPELESS = 20.0
# Fewer threads may be slower by this factor: less is noise, and fewer leave more cores to others.
_WORTH_MORE_THREADS = 1.1


def thread_counts(replicas: int = 1) -> list[int]:
    """Return the counts to try for each of the replicas that share the cores: powers of two, and all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return up_to(max(1, cores // replicas))


def up_to(most: int) -> list[int]:
    """Return the powers of two below `most`, and `most`."""
    return [*(count for count in (1, 2, 4, 8, 16, 32) if count < most), most]


def tune(
    works: Sequence[Callable[[], object]], counts: Sequence[int], *, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Set this thread's intra-op count to the fastest for the works, each judged alike, and return it.

    counts: rising.  clock: seconds.  The counts take turns, and each keeps its best time of each work: what else the
    machine does for a while slows them all, and not the one whose turn it is. No turn begins after two seconds.
    """
    end = clock() + _TUNING_S
    best = {count: [float("inf")] * len(works) for count in counts}
    for turn in range(1 + _ROUNDS):
        if turn and clock() >= end:
            break
        for count in _hopeful(best, turn):
            torch.set_num_threads(count)
            times = [medians.seconds(work, clock) for work in works]
            # The first turn warms up: its times count only where works are so slow that there is no other.
            best[count] = times if turn < 2 else list(map(min, best[count], times))
    chosen = _fewest_of_the_fastest({count: math.prod(times) ** (1 / len(works)) for count, times in best.items()})
    torch.set_num_threads(chosen)
    return chosen


def _hopeful(best: dict[int, list[float]], turn: int) -> list[int]:
    if turn < 2:
        return list(best)
    scores = {count: math.prod(times) for count, times in best.items()}
    return [count for count, score in scores.items() if score <= _HOPELESS * min(scores.values())]


def _fewest_of_the_fastest(scores: dict[int, float]) -> int:
    return min(count for count, score in scores.items() if score <= _WORTH_MORE_THREADS * min(scores.values()))

"""Threads that compute the pieces of a batch side by side, and whether that is faster, by measurement.

(Two threads within a pass wait for each other after every operation, and both for whichever is disturbed; two passes do
not. On two cores sixteen images take 0.8 of the time, by ViT-Tiny and by EfficientNet-Lite0.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import torch
from torch import Tensor

from midrib.server import _turns
from midrib.server._pieces import SHORT_S

# What passes side by side may cost more than one after the other: beside a busy event loop they lose far less.
_WORTH_MEETING = 1.15


class Crew:
    """width: how many pieces it computes at a time.  threads: intra-op, of each.

    Its threads end when nobody refers to it any more.
    """

    def __init__(self, width: int, threads: int) -> None:
        self.width = width
        self._pool = ThreadPoolExecutor(width, "crew", torch.set_num_threads, (threads,))

    def run(self, works: Iterable[Callable[[], Tensor]]) -> list[Tensor]:
        """What each returns, in order. Where one raises, so does this, once none of them reads its inputs any more."""
        futures = [self._pool.submit(work) for work in works]
        wait(futures)
        return [future.result() for future in futures]


def tune_width(
    work: Callable[[int], object],
    widths: Sequence[int],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The number of passes at a time that computes a batch fastest; one has to win by a seventh.

    work: the same batch with any of the widths, of which the first is 1.
    seconds: to measure in; a turn that began by then still ends.
    They take turns, and the median of each counts: what else the machine does for a while slows them all.
    """
    end = clock() + seconds
    # The first turn warms up: it counts only where work is so slow that there is no other.
    times = _turns.medians(work, widths, end=end, rounds=1, clock=clock)
    if clock() < end:
        times = _turns.medians(work, widths, end=end, clock=clock)
    alone_s = times.pop(widths[0])
    fastest = min(times, key=lambda width: times[width])
    return widths[0] if alone_s < SHORT_S or _WORTH_MEETING * alone_s < times[fastest] else fastest

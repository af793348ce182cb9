"""How many rows per pass this CPU computes fastest, by measurement.

(What a convolution hands from layer to layer grows with its rows, out of the cache and of what the allocator keeps: on
two cores EfficientNet-Lite0 takes 15 ms an image by fours and 36 ms by fifties. A perceptron is fastest with all rows.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from midrib.server._calibration import medians

# Do not split passes shorter than this: every extra pass competes with the event loop for the interpreter lock.
SHORT_S = 5e-3
# Stop after two successive numbers that are slower per row than the best so far by this factor.
_LOST = 1.25
# If the last number is faster than all before it by this factor, the best may lie beyond it.
_GAINS = 1.1
# Fewer rows must be faster per row by this factor: less is noise, and fewer rows mean more passes.
_WORTH_FEWER_ROWS = 1.05


def tune_rows(
    work: Callable[[int], object], most: int, *, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> int:
    """The number of rows that one pass computes fastest, a row; `most` where no fewer are known to be faster.

    work: a pass of so many rows.  seconds: to measure in; a round of what was tried by then still follows.
    The numbers take turns, and the median of each counts: what else the machine does for a while slows them all, and
    of best times the short passes of few rows, which fit between two disturbances, would have the better ones.
    """
    end = clock() + seconds
    tried = _climb(work, most, end, clock)
    if _best_lies_beyond(tried, most):
        return most
    each_s = {rows: spent_s / rows for rows, spent_s in medians.medians(work, tried, end=end, clock=clock).items()}
    chosen = max(rows for rows in tried if each_s[rows] <= _WORTH_FEWER_ROWS * min(each_s.values()))
    return chosen if chosen * each_s[chosen] >= SHORT_S else most


def _climb(work: Callable[[int], object], most: int, end: float, clock: Callable[[], float]) -> dict[int, float]:
    """Numbers of rows to choose from, rising, with first times a row: until more only lose, or would take too long.

    That is: longer than leaves time for all rounds, or than there is, if the best number is still to be found.
    """
    tried: dict[int, float] = {}
    lost, began = 0, clock()
    for rows in _doubled(most):
        spent_s = clock() + rows * min(tried.values(), default=0.0) - began
        if spent_s >= (end - began) / (1 if _best_lies_beyond(tried, most) else 1 + medians.ROUNDS):
            break
        took_s = medians.seconds(partial(work, rows), clock)
        if took_s < SHORT_S:
            continue
        tried[rows] = took_s / rows
        lost = lost + 1 if tried[rows] > _LOST * min(tried.values()) else 0
        if lost == 2:
            break
    return tried


def _best_lies_beyond(tried: dict[int, float], most: int) -> bool:
    """Whether the numbers say too little to stay below `most`."""
    *before, last = tried.values() or (0.0,)
    return not before or (max(tried) < most and _GAINS * last <= min(before))


def _doubled(most: int) -> Iterator[int]:
    rows = 1
    while rows < most:
        yield rows
        rows *= 2
    yield most

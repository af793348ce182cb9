"""How many parallel passes compute a batch fastest on this CPU, by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from midrib.server._calibration import medians
from midrib.server._calibration.micro_batch import SHORT_S

# What passes side by side may cost more than one after the other: beside a busy event loop they lose far less.
_WORTH_MEETING = 1.15


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
    times = medians.medians(work, widths, end=end, rounds=1, clock=clock)
    if clock() < end:
        times = medians.medians(work, widths, end=end, clock=clock)
    alone_s = times.pop(widths[0])
    fastest = min(times, key=lambda width: times[width])
    return widths[0] if alone_s < SHORT_S or _WORTH_MEETING * alone_s < times[fastest] else fastest

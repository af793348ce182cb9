"""How many parallel passes compute a batch fastest on this CPU, by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from midrib.server._calibration import medians
from midrib.server._calibration.micro_batch import SHORT_S

# Parallel passes may be slower by this factor and still be chosen: beside a busy event loop they lose far less.
_WORTH_MEETING = 1.15


def tune_width(
    work: Callable[[int], object],
    widths: Sequence[int],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Return how many concurrent passes compute a batch fastest. A single pass is kept only if it is 15 % faster.

    work: computes the same batch with a given width; the first of the widths is 1.
    seconds: the time to measure in; a measurement that has begun still ends.
    The widths are measured in turn and compared by their medians, so that other load slows all of them alike.
    """
    end = clock() + seconds
    # The first measurement also warms up: it counts only if the work is too slow for a second one.
    times = medians.medians(work, widths, end=end, rounds=1, clock=clock)
    if clock() < end:
        times = medians.medians(work, widths, end=end, clock=clock)
    alone_s = times.pop(widths[0])
    fastest = min(times, key=lambda width: times[width])
    return widths[0] if alone_s < SHORT_S or _WORTH_MEETING * alone_s < times[fastest] else fastest

"""The time at which to take the next batch from the queue: shortly before the device is free.

A batch that is taken later is larger, and urgent items still get into it. But if it is taken when the device is free,
the device idles while the batch is staged. So it is taken as long before that as recent batches took to stage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

# From taking a batch to staging it: the event loop, gathering items under load, and waking another thread.
_HANDOVER_S = 2e-3
_STAGING_SAFETY = 2.0
_SMOOTHING = 0.3


class PrefetchTimer:
    """Predicts when a replica is free, by the times of its recent batches of about the same cost.

    clock: the clock of the batches' reports, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._compute_s: dict[int, float] = {}
        self._staging_s: dict[int, float] = {}
        self._running: deque[int] = deque()
        self._free_at = 0.0

    def handed_over(self, cost: int) -> None:
        """Count a batch of this cost that was handed over."""
        before = self._free_at if self._running else self._clock()
        self._running.append(cost.bit_length())
        self._free_at = before + self._compute_s.get(self._running[-1], 0.0)

    def finished(self, *, staging_s: float, compute_s: float) -> None:
        """Count that the oldest batch is done; staging_s, compute_s: the seconds that it took."""
        size = self._running.popleft()
        self._free_at = self._clock() + sum(self._compute_s.get(running, 0.0) for running in self._running)
        for averages, seconds in ((self._compute_s, compute_s), (self._staging_s, staging_s)):
            average = averages.get(size, seconds)
            averages[size] = average + _SMOOTHING * (seconds - average)

    def next_in_s(self, *, full: bool) -> float:
        """Return the seconds until the next batch should be taken; infinity to wait until the device is free.

        Call it only while a batch runs. full: whether the queued items fill a batch, which waiting cannot make larger.
        """
        last = self._running[-1]
        lead = _HANDOVER_S + _STAGING_SAFETY * self._staging_s.get(last, 0.0)
        if self._compute_s.get(last, 0.0) <= lead:  # too short to aim at a moment before its end
            return 0.0 if full else inf
        return self._free_at - lead - self._clock()

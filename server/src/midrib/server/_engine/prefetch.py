"""When the next batch is to be put together, so that a device need not wait for it, nor it for the device.

Taken later, a batch is larger, and whoever is in a hurry still gets into it. Taken as the device ends, the device idles
while the batch is put together. So it is taken as long before the device is free as putting it together took lately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

# From taking a batch to starting to stage it: the loop's turn, a gathering under company, another thread's wake-up.
_HANDOVER_S = 2e-3
_STAGING_SAFETY = 2.0
_SMOOTHING = 0.3


class PrefetchTimer:
    """What one replica's batches took lately, by the size class of their cost.

    clock: seconds, that of the reports.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._compute_s: dict[int, float] = {}
        self._staging_s: dict[int, float] = {}
        self._running: deque[int] = deque()
        self._free_at = 0.0

    def handed_over(self, cost: int) -> None:
        """A batch of that cost is the device's now, behind those that it has."""
        before = self._free_at if self._running else self._clock()
        self._running.append(cost.bit_length())
        self._free_at = before + self._compute_s.get(self._running[-1], 0.0)

    def finished(self, *, staging_s: float, compute_s: float) -> None:
        """The oldest has taken so long."""
        size = self._running.popleft()
        self._free_at = self._clock() + sum(self._compute_s.get(one, 0.0) for one in self._running)
        for seen, took in ((self._compute_s, compute_s), (self._staging_s, staging_s)):
            seen[size] = took if size not in seen else seen[size] + _SMOOTHING * (took - seen[size])

    def next_in_s(self, *, full: bool) -> float:
        """Seconds until the next batch is to be taken, 0 or less for now, infinite for not before the device is free.

        Only while it is not. full: whether what waits fills a batch, so that waiting cannot make it larger.
        """
        last = self._running[-1]
        lead = _HANDOVER_S + _STAGING_SAFETY * self._staging_s.get(last, 0.0)
        if self._compute_s.get(last, 0.0) <= lead:  # too short to aim within
            return 0.0 if full else inf
        return self._free_at - lead - self._clock()

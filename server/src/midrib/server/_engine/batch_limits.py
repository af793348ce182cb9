"""The limits of a batch and of the queue, and the budget of the next batch."""

from __future__ import annotations

from dataclasses import dataclass

# A batch has as many rows as the device computes in this time. A device runs one batch after the other, so this is the
# longest that an item waits for a batch that computes. Staging and handing over a batch cost about a hundredth of it.
_MAX_BATCH_S = 0.25
# A batch may always have this number of rows: devices compute several rows at a time faster than one after the other.
_MIN_ROWS = 4
# The rows of a batch before any was measured: a slow backbone also finishes small batches soon.
_UNMEASURED_ROWS = 16
# The weight that earlier batches keep after each further one: the speed follows about the last ten.
_KEPT = 0.8


@dataclass(frozen=True)
class BatchLimits:
    """Limits of a batch and of the queue.

    max_rows, max_cost: limits of one batch.  max_queue_items, max_queue_cost: limits of one flow's queued items.
    max_delay_s: how long a small batch waits for more items under load.
    """

    max_rows: int
    max_cost: int
    max_queue_items: int
    max_queue_cost: int
    max_delay_s: float = 2e-3

    def rows_of(self, elements: int) -> int:
        """Return the number of rows of this many elements that a batch holds; at least 1."""
        return max(1, min(self.max_rows, self.max_cost // elements))


class BatchBudget:
    """The size of the next batch: within the limits, and within the time that one batch may compute.

    So callers do not wait for a thousand rows of another caller, who may have left.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._max_rows = min(limits.max_rows, _UNMEASURED_ROWS)
        self._timely_cost = limits.max_cost
        self._cost = 0.0
        self._seconds = 0.0

    def add(self, cost: int, compute_s: float) -> None:
        """Count a batch of this cost that was computed in `compute_s` seconds."""
        self._cost = _KEPT * self._cost + cost
        self._seconds = _KEPT * self._seconds + compute_s
        if self._seconds:
            self._max_rows = self._limits.max_rows
            self._timely_cost = min(self._limits.max_cost, int(_MAX_BATCH_S * self._cost / self._seconds))

    def seconds_of(self, cost: int) -> float:
        """Return the seconds that a device needs for this cost, by the recent batches; 0 before the first one."""
        return cost * self._seconds / self._cost if self._cost else 0.0

    def is_full(self, rows: int, cost: int) -> bool:
        """Return whether `rows` rows of this total cost fill a batch."""
        if rows >= self._max_rows or cost >= self._limits.max_cost:
            return True
        return rows >= _MIN_ROWS and cost >= self._timely_cost

    def rows_beside(self, rows: int, cost: int, row_cost: int) -> int:
        """Return the number of rows, each of `row_cost`, that a batch of `rows` and `cost` still takes.

        At least 1 if the batch is empty.
        """
        fitting = min(self._max_rows - rows, (self._limits.max_cost - cost) // row_cost)
        timely = max(_MIN_ROWS - rows, (self._timely_cost - cost) // row_cost)
        return max(int(not rows), min(fitting, timely))

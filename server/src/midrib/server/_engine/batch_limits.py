"""How large a batch and a queue may become."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchLimits:
    """Limits of a batch and of the queue.

    max_rows, max_cost: of one batch.  max_queue_items, max_queue_cost: of the queued items of one flow.
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

"""Who uses a server, and what it refuses: counters for Prometheus, of all protocols. docs/metrics.md names them."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from prometheus_client import CollectorRegistry, Counter, ProcessCollector

from midrib.server._engine.item import Item, Outcome

CURRENT_ACCOUNTING: ContextVar[Accounting | None] = ContextVar("CURRENT_ACCOUNTING", default=None)
"""The accounting of the server that handles a call. Its calls inherit it, because it is set when the server starts."""


class Accounting:
    """Counts the refusals of a server, and the rows of each token; adds the metrics of the process.

    registry: the metrics of the server.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        ProcessCollector(registry=registry)
        self._refusals = Counter(
            "midrib_refusals", "Calls that ended in an error.", ["protocol", "reason"], registry=registry
        )
        self._items = Counter("midrib_token_items", "Items of each token.", ["token", "outcome"], registry=registry)
        self._rows = Counter("midrib_token_rows", "Rows answered to each token.", ["token"], registry=registry)

    def refused(self, protocol: str, reason: str) -> None:
        """Count a call that ended in an error.  protocol: "grpc" or "http"."""
        self._refusals.labels(protocol, reason).inc()

    def observe_batch(self, batch: Sequence[Item], outcomes: Sequence[Outcome | Exception], _compute_s: float) -> None:
        """Count the items of a batch for their tokens; on a server with tokens the flow of an item is its token."""
        for item, outcome in zip(batch, outcomes, strict=True):
            answered = isinstance(outcome, Outcome)
            self._items.labels(item.flow, "answered" if answered else "failed").inc()
            if answered:
                self._rows.labels(item.flow).inc(item.rows)

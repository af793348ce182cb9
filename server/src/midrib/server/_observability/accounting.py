"""The users of a server, and its refusals: counters for Prometheus, of all protocols. docs/metrics.md names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

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
        items = Counter("midrib_stream_items", "Items of streams, by route.", ["route"], registry=registry)
        self._routes = {shared: items.labels("shared_memory" if shared else "wire") for shared in (False, True)}
        self._shared = Gauge("midrib_shared_memory_bytes", "Memory that clients share.", registry=registry)
        self._rows = Counter("midrib_token_rows", "Rows answered to each token.", ["token"], registry=registry)

    def refused(self, protocol: str, reason: str) -> None:
        """Count a call that ended in an error.  protocol: "grpc" or "http"."""
        self._refusals.labels(protocol, reason).inc()

    def stream_item(self, *, shared: bool) -> None:
        """Count an item of an EmbedStream.  shared: whether its input lies in shared memory."""
        self._routes[shared].inc()

    def shared_memory(self, size_bytes: int) -> None:
        """Set the bytes of the memory that clients share."""
        self._shared.set(size_bytes)

    def observe_batch(self, batch: Sequence[Item], outcomes: Sequence[Outcome | Exception], _compute_s: float) -> None:
        """Count the items of a batch for their tokens; on a server with tokens the flow of an item is its token."""
        for item, outcome in zip(batch, outcomes, strict=True):
            answered = isinstance(outcome, Outcome)
            self._items.labels(item.flow, "answered" if answered else "failed").inc()
            if answered:
                self._rows.labels(item.flow).inc(item.rows)


class MetricsOfToken(Collector):
    """The metrics of a server, of which one token sees its own series only.  token: its name."""

    def __init__(self, registry: CollectorRegistry, token: str) -> None:
        self._registry = registry
        self._token = token

    def collect(self) -> Iterable[Metric]:
        """Return the metric families, for prometheus_client."""
        for family in self._registry.collect():
            samples = [sample for sample in family.samples if sample.labels.get("token", self._token) == self._token]
            visible = Metric(family.name, family.documentation, family.type, family.unit)
            visible.samples = samples
            yield visible

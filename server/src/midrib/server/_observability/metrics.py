"""The metrics of a server, for Prometheus. docs/metrics.md documents their names.

Histograms are observed when a batch is done; the counters of the queues and of the replicas are read at each scrape.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from midrib.server._engine.item import Item, Outcome
from midrib.server._engine.served_backbone import OnBatch, ServedBackbone
from midrib.server._observability.histograms import Histogram

_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


class Metrics:
    """The metrics of one server, in one registry.

    served: returns the backbones that serve now; called at each scrape.
    """

    def __init__(self, served: Callable[[], Iterable[ServedBackbone]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_AtScrape(served))
        self._queue = self._histogram("midrib_queue_seconds", "An item's wait for a device.", _SECONDS)
        self._compute = self._histogram("midrib_compute_seconds", "A batch on its device.", _SECONDS)
        self._total = self._histogram("midrib_item_seconds", "An item, from the queue to its rows.", _SECONDS)
        self._rows = self._histogram("midrib_batch_rows", "Rows of a batch.", _ROWS)
        self._fill = self._histogram("midrib_batch_fill", "A batch's cost by its budget, 0..1.", _SHARES)
        self._padding = self._histogram("midrib_batch_padding", "The share of a batch that is padding, 0..1.", _SHARES)

    def of(self, served: ServedBackbone) -> OnBatch:
        """Return the function that observes the finished batches of a backbone, in seconds, rows and shares."""
        name = served.description.name
        rows, fill, padding = (histogram.of(name) for histogram in (self._rows, self._fill, self._padding))
        queue, compute, total = (histogram.of(name) for histogram in (self._queue, self._compute, self._total))
        budget = served.batcher.limits.max_cost

        def observe(batch: Sequence[Item], outcomes: Sequence[Outcome | Exception], compute_s: float) -> None:
            cost = sum(item.cost for item in batch)
            rows.observe(sum(item.rows for item in batch))
            fill.observe(cost / budget)
            padding.observe(1 - sum(item.arrays[0].size for item in batch) / cost if cost else 0.0)
            compute.observe(compute_s)
            for outcome in outcomes:
                if isinstance(outcome, Outcome):
                    queue.observe(outcome.queue_s)
                    total.observe(outcome.queue_s + outcome.compute_s)

        return observe

    def _histogram(self, name: str, documentation: str, bounds: Sequence[float]) -> Histogram:
        histogram = Histogram(name, documentation, bounds)
        self.registry.register(histogram)
        return histogram


class _AtScrape(Collector):
    """The metrics that the queues and the replicas count."""

    def __init__(self, served: Callable[[], Iterable[ServedBackbone]]) -> None:
        self._served = served

    def collect(self) -> Iterable[Metric]:
        """Return the metric families, for prometheus_client."""
        ready = GaugeMetricFamily("midrib_backbone", "1 for each served revision.", labels=["backbone", "revision"])
        queued = GaugeMetricFamily("midrib_queue_items", "Items that wait.", labels=["backbone"])
        cost = GaugeMetricFamily("midrib_queue_cost", "Elements that wait, padding included.", labels=["backbone"])
        items = CounterMetricFamily("midrib_items", "Items, by outcome.", labels=["backbone", "outcome"])
        rows = CounterMetricFamily("midrib_rows", "Rows answered.", labels=["backbone"])
        restarts = CounterMetricFamily("midrib_worker_restarts", "Worker processes replaced.", labels=["backbone"])
        for served in self._served():
            name, counts, totals = served.description.name, served.batcher.counts, served.totals
            ready.add_metric([name, served.description.revision], 1)
            queued.add_metric([name], served.batcher.queued_items)
            cost.add_metric([name], served.batcher.queued_cost)
            rows.add_metric([name], totals.rows)
            restarts.add_metric([name], served.worker_restarts())
            for outcome in ("accepted", "rejected", "cancelled", "expired"):
                items.add_metric([name, outcome], getattr(counts, outcome))
            for outcome in ("answered", "failed"):
                items.add_metric([name, outcome], getattr(totals, outcome))
        memory = GaugeMetricFamily("midrib_device_memory_bytes", "Allocated by torch on a GPU.", labels=["device"])
        torch: Any = sys.modules.get("torch")  # only if a backbone computes in this process
        for index in range(torch.cuda.device_count() if torch is not None else 0):
            memory.add_metric([f"cuda:{index}"], torch.cuda.memory_allocated(index))
        yield from (ready, queued, cost, items, rows, restarts, memory)

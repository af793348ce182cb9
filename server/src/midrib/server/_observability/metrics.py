"""What a server tells Prometheus. The names are documented in docs/metrics.md.

Histograms are observed where things happen; what is already counted elsewhere (the queues, the byte budget) is read
when somebody scrapes.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from midrib.server._engine.item import Item, Outcome
from midrib.server._engine.served_backbone import OnBatch, ServedBackbone

_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


class Metrics:
    """One server's metrics, in a registry of their own.

    served: asked at a scrape for the backbones that serve then.
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
        """What notes the finished batches of a backbone: its histograms, looked up once."""
        label = served.description.name
        rows, fill, padding = (one.labels(label) for one in (self._rows, self._fill, self._padding))
        queue, compute, total = (one.labels(label) for one in (self._queue, self._compute, self._total))
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

    def _histogram(self, name: str, what: str, bounds: Sequence[float]) -> Histograms:
        histograms = Histograms(name, what, bounds)
        self.registry.register(histograms)
        return histograms


class Histogram:
    """How many observations fell below each bound. On the event loop only, as all here, so that it needs no lock.

    (prometheus_client's own takes a lock twice an observation, which made it a tenth of a small item's cost.)
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one that equals a bound falls below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Histograms(Collector):
    """One metric's histogram of each backbone.  bounds: rising."""

    def __init__(self, name: str, what: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._what = what
        self._bounds = bounds
        self._of: dict[str, Histogram] = {}

    def labels(self, backbone: str) -> Histogram:
        """A backbone's."""
        return self._of.setdefault(backbone, Histogram(self._bounds))

    def collect(self) -> Iterable[Metric]:
        """The family, as prometheus_client wants it."""
        family = HistogramMetricFamily(self._name, self._what, labels=["backbone"])
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for backbone, histogram in self._of.items():
            buckets = list(zip(names, accumulate(histogram.counts), strict=True))
            family.add_metric([backbone], buckets, histogram.sum)
        yield family


class _AtScrape(Collector):
    """What is counted elsewhere, read when somebody asks."""

    def __init__(self, served: Callable[[], Iterable[ServedBackbone]]) -> None:
        self._served = served

    def collect(self) -> Iterable[Metric]:
        """The families, as prometheus_client wants them."""
        ready = GaugeMetricFamily("midrib_backbone", "1 for each served revision.", labels=["backbone", "revision"])
        queued = GaugeMetricFamily("midrib_queue_items", "Items that wait.", labels=["backbone"])
        cost = GaugeMetricFamily("midrib_queue_cost", "Elements that wait, padding included.", labels=["backbone"])
        items = CounterMetricFamily("midrib_items", "Items, by what became of them.", labels=["backbone", "outcome"])
        rows = CounterMetricFamily("midrib_rows", "Rows answered.", labels=["backbone"])
        restarts = CounterMetricFamily("midrib_worker_restarts", "Worker processes replaced.", labels=["backbone"])
        for one in self._served():
            name, counts, totals = one.description.name, one.batcher.counts, one.totals
            ready.add_metric([name, one.description.revision], 1)
            queued.add_metric([name], one.batcher.queued_items)
            cost.add_metric([name], one.batcher.queued_cost)
            rows.add_metric([name], totals.rows)
            restarts.add_metric([name], one.worker_restarts())
            for outcome in ("accepted", "rejected", "cancelled", "expired"):
                items.add_metric([name, outcome], getattr(counts, outcome))
            for outcome in ("answered", "failed"):
                items.add_metric([name, outcome], getattr(totals, outcome))
        memory = GaugeMetricFamily("midrib_device_memory_bytes", "Allocated by torch on a GPU.", labels=["device"])
        torch: Any = sys.modules.get("torch")  # only if a backbone computes in this process
        for index in range(torch.cuda.device_count() if torch is not None else 0):
            memory.add_metric([f"cuda:{index}"], torch.cuda.memory_allocated(index))
        yield from (ready, queued, cost, items, rows, restarts, memory)

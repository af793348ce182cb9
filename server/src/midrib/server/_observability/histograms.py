"""Histograms that are counted on the event loop, for each batch, and read at each scrape.

prometheus_client's own take two locks for each number: with six of them for each batch, three percent of a call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Buckets:
    """The numbers of one backbone, by buckets.

    bounds: the largest number of each bucket, ascending. Larger numbers are counted too.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, number: float) -> None:
        """Count a number."""
        self._counts[bisect_left(self._bounds, number)] += 1
        self._sum += number

    def sample(self) -> tuple[list[tuple[str, float]], float]:
        """Return the count up to each bound, as Prometheus writes it, and the sum of all numbers."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


class Histogram(Collector):
    """A histogram for each backbone.

    bounds: the largest number of each bucket, ascending.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = bounds
        self._buckets: dict[str, Buckets] = {}

    def of(self, backbone: str) -> Buckets:
        """Return the numbers of a backbone, which are kept when it is loaded again."""
        return self._buckets.setdefault(backbone, Buckets(self._bounds))

    def collect(self) -> Iterable[Metric]:
        """Return the metric family, for prometheus_client."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=["backbone"])
        for backbone, buckets in self._buckets.items():
            family.add_metric([backbone], *buckets.sample())
        yield family

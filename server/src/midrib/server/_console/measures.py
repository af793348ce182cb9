"""Read the metrics of a server, and compare two readings: rates, means and quantiles of the time between them."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from prometheus_client import CollectorRegistry

# A bucket of a histogram with one label has a second one, "le".
_BUCKET_LABELS = 2


@dataclass(frozen=True)
class Reading:
    """The values of all metrics at one time.

    at: seconds of time.monotonic.  values: by the name of a sample, then by its labels' values in alphabetical order
    of the labels.
    """

    at: float
    values: Mapping[str, Mapping[tuple[str, ...], float]]

    @cached_property
    def bounds(self) -> Mapping[tuple[str, str], list[float]]:
        """The upper bounds of the buckets of histograms with one label, ascending, by sample name and label value."""
        bounds: dict[tuple[str, str], list[float]] = defaultdict(list)
        for name, samples in self.values.items():
            for labels in samples:
                if name.endswith("_bucket") and len(labels) == _BUCKET_LABELS:
                    bounds[name, labels[0]].append(float(labels[1]))
        return {key: sorted(of_key) for key, of_key in bounds.items()}

    def value(self, name: str, *labels: str) -> float:
        """Return the value of a sample; 0 if it does not exist."""
        return self.values.get(name, {}).get(labels, 0.0)


def read(registry: CollectorRegistry) -> Reading:
    """Return the present values of all metrics of a registry."""
    values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for family in registry.collect():
        for sample in family.samples:
            labels = tuple(sample.labels[label] for label in sorted(sample.labels))
            values[sample.name][labels] = sample.value
    return Reading(time.monotonic(), values)


@dataclass(frozen=True)
class MeasuredInterval:
    """The time between two readings."""

    before: Reading
    after: Reading

    def increase(self, name: str, *labels: str) -> float:
        """Return how much a counter has grown; 0 if it was reset, as when a backbone is loaded again."""
        return max(0.0, self.after.value(name, *labels) - self.before.value(name, *labels))

    def rate(self, name: str, *labels: str) -> float | None:
        """Return the increase of a counter per second; None for two readings at the same time."""
        seconds = self.after.at - self.before.at
        return self.increase(name, *labels) / seconds if seconds > 0 else None

    def mean(self, histogram: str, *labels: str) -> float | None:
        """Return the mean of the values that a histogram observed; None if there were none."""
        count = self.increase(f"{histogram}_count", *labels)
        return self.increase(f"{histogram}_sum", *labels) / count if count else None

    def quantile(self, share: float, histogram: str, label: str) -> float | None:
        """Return a quantile of the values that a histogram observed; None if there were none.

        share: 0.99 for the 99th percentile.  label: the value of the only label beside the bounds of the buckets.
        """
        name = f"{histogram}_bucket"
        bounds = self.after.bounds.get((name, label), [])
        return quantile(share, bounds, [self.increase(name, label, _bound(bound)) for bound in bounds])


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else str(bound)


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Return a quantile of a histogram, interpolated within its bucket; None if the histogram is empty.

    bounds: the upper bounds of the buckets, ascending.  counts: how many values are at most each bound.
    Source: histogram_quantile of Prometheus. Of the last bucket, which has no upper bound, it returns the lower one.
    """
    if not counts or not counts[-1]:
        return None
    rank = share * counts[-1]
    index = next(index for index, count in enumerate(counts) if count >= rank)
    lower = bounds[index - 1] if index else 0.0
    if math.isinf(bounds[index]):
        return lower
    below = counts[index - 1] if index else 0.0
    inside = counts[index] - below
    return lower + (bounds[index] - lower) * ((rank - below) / inside if inside else 1.0)

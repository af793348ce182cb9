"""Rates, means and quantiles between two readings of the metrics."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from midrib.server._console.measures import MeasuredInterval, Reading, quantile, read

BOUNDS = (1.0, 2.0, 4.0, math.inf)


@pytest.mark.parametrize(
    ("share", "counts", "value"),
    [
        pytest.param(0.5, (0, 0, 0, 0), None, id="empty"),
        pytest.param(0.5, (10, 10, 10, 10), 0.5, id="first bucket, from zero"),
        pytest.param(0.5, (0, 10, 10, 10), 1.5, id="middle of a bucket"),
        pytest.param(0.75, (4, 4, 8, 8), 3.0, id="buckets without values are skipped"),
        pytest.param(1.0, (4, 4, 8, 8), 4.0, id="the largest"),
        pytest.param(0.99, (0, 0, 0, 5), 4.0, id="beyond the last bound"),
        pytest.param(0.5, (), None, id="no buckets"),
    ],
)
def test_a_quantile_is_interpolated_in_its_bucket(share: float, counts: tuple[int, ...], value: float | None) -> None:
    """The result is that of Prometheus' histogram_quantile."""
    assert quantile(share, BOUNDS, counts) == value


def readings() -> tuple[CollectorRegistry, Counter, Histogram]:
    registry = CollectorRegistry()
    counter = Counter("rows", "Rows.", ["backbone"], registry=registry)
    return registry, counter, Histogram("item_seconds", "Items.", ["backbone"], registry=registry, buckets=BOUNDS)


def test_an_interval_counts_only_its_own_values() -> None:
    """Values from before do not count, nor do those of other labels."""
    registry, counter, histogram = readings()
    counter.labels("a").inc(100)
    histogram.labels("a").observe(3)
    before = read(registry)
    counter.labels("a").inc(7)
    counter.labels("b").inc(1000)
    histogram.labels("a").observe(1.5)
    window = MeasuredInterval(before, read(registry))
    assert window.increase("rows_total", "a") == 7
    assert window.mean("item_seconds", "a") == 1.5
    assert window.quantile(1.0, "item_seconds", "a") == 2.0
    assert window.quantile(1.0, "item_seconds", "b") is None


def test_a_rate_is_per_second() -> None:
    """Two readings at the same time have none."""
    window = MeasuredInterval(Reading(1.0, {"rows": {("a",): 10}}), Reading(3.0, {"rows": {("a",): 16}}))
    assert window.rate("rows", "a") == 3.0
    assert MeasuredInterval(window.after, window.after).rate("rows", "a") is None


def test_a_counter_that_was_reset_has_not_grown() -> None:
    """A backbone that is loaded again counts from zero."""
    window = MeasuredInterval(Reading(1.0, {"rows": {("a",): 10}}), Reading(3.0, {"rows": {("a",): 1}}))
    assert window.increase("rows", "a") == 0

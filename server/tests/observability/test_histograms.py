"""Our histograms say the same as those of prometheus_client."""

from __future__ import annotations

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from midrib.server._observability.histograms import Histogram

BOUNDS = (0.1, 0.5, 1.0, 2.0)


def samples(registry: CollectorRegistry) -> dict[str, dict[str, float]]:
    """Every value but the time at which the library's histogram was made, by name and bucket."""
    values: dict[str, dict[str, float]] = {}
    for family in registry.collect():
        for sample in family.samples:
            values.setdefault(sample.name, {})[sample.labels.get("le", "")] = sample.value
    values.pop("seconds_created", None)
    return values


@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 3))))
def test_the_numbers_are_those_of_the_library(numbers: list[float]) -> None:
    """A number equal to a bound belongs to its bucket."""
    registry, reference = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("seconds", "Seconds.", BOUNDS)
    registry.register(histogram)
    library = prometheus_client.Histogram("seconds", "Seconds.", ["backbone"], registry=reference, buckets=BOUNDS)
    counted, expected = histogram.of("one"), library.labels("one")
    for number in numbers:
        counted.observe(number)
        expected.observe(number)
    assert samples(registry) == samples(reference)


def test_a_backbone_that_is_loaded_again_goes_on() -> None:
    """Prometheus takes a number that falls for a restart of the server."""
    histogram = Histogram("seconds", "Seconds.", BOUNDS)
    histogram.of("one").observe(0.3)
    histogram.of("one").observe(0.3)
    assert histogram.of("one").sample() == ([("0.1", 0), ("0.5", 2), ("1.0", 2), ("2.0", 2), ("+Inf", 2)], 0.6)

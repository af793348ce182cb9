"""The time at which the next batch is taken, by a clock that the test moves."""

from __future__ import annotations

from math import inf

import pytest

from midrib.server._engine.prefetch import PrefetchTimer

COST = 1000


class Clock:
    """Stands still until the test moves it."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture()
def clock() -> Clock:
    return Clock()


def learned(clock: Clock, *, staging_s: float, compute_s: float) -> PrefetchTimer:
    """Return a timer that has measured one batch."""
    timer = PrefetchTimer(clock)
    timer.handed_over(COST)
    timer.finished(staging_s=staging_s, compute_s=compute_s)
    return timer


def test_the_next_batch_is_taken_as_long_before_the_end_as_staging_takes(clock: Clock) -> None:
    """A tenth of a second's batch that stages in 4 ms: 10 ms before its end (twice that, and 2 ms to hand it over)."""
    timer = learned(clock, staging_s=0.004, compute_s=0.1)
    timer.handed_over(COST)
    clock.now += 0.05
    assert timer.next_in_s(full=False) == pytest.approx(0.04)


def test_a_full_batch_is_not_taken_earlier_behind_a_long_one(clock: Clock) -> None:
    """Urgent items still get into the next batch."""
    timer = learned(clock, staging_s=0.004, compute_s=0.1)
    timer.handed_over(COST)
    assert timer.next_in_s(full=True) == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("full", "expected"),
    [pytest.param(False, inf, id="would grow"), pytest.param(True, 0.0, id="cannot grow")],
)
def test_behind_a_short_batch_only_a_full_one_is_taken_early(clock: Clock, full: bool, expected: float) -> None:
    """A smaller one would only miss later items."""
    timer = learned(clock, staging_s=0.0001, compute_s=0.001)
    timer.handed_over(COST)
    assert timer.next_in_s(full=full) == expected


def test_a_batch_of_unknown_duration_is_waited_for(clock: Clock) -> None:
    """Its duration does not follow from batches of another size."""
    timer = learned(clock, staging_s=0.001, compute_s=0.1)
    timer.handed_over(100 * COST)
    assert timer.next_in_s(full=False) == inf


def test_the_times_of_two_batches_add_up(clock: Clock) -> None:
    """Two of 0.1 s: the device is free after both."""
    timer = learned(clock, staging_s=0.0, compute_s=0.1)
    timer.handed_over(COST)
    timer.handed_over(COST)
    assert timer.next_in_s(full=False) == pytest.approx(0.198)


def test_a_wrong_prediction_does_not_affect_later_ones(clock: Clock) -> None:
    """The end of a batch is the start of the prediction for the next one."""
    timer = learned(clock, staging_s=0.0, compute_s=0.1)
    timer.handed_over(COST)
    timer.handed_over(COST)
    clock.now += 0.5
    timer.finished(staging_s=0.0, compute_s=0.1)
    assert timer.next_in_s(full=False) == pytest.approx(0.098)

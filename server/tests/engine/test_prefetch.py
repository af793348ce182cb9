"""When the next batch is taken, by a clock of the test's own."""

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
    """A pace that has seen one batch."""
    pace = PrefetchTimer(clock)
    pace.handed_over(COST)
    pace.finished(staging_s=staging_s, compute_s=compute_s)
    return pace


def test_the_next_batch_is_taken_as_long_before_the_end_as_staging_takes(clock: Clock) -> None:
    """A tenth of a second's batch that stages in 4 ms: 10 ms before its end (twice that, and 2 ms for the way)."""
    pace = learned(clock, staging_s=0.004, compute_s=0.1)
    pace.handed_over(COST)
    clock.now += 0.05
    assert pace.next_in_s(full=False) == pytest.approx(0.04)


def test_a_full_batch_does_not_make_a_long_one_be_left_early(clock: Clock) -> None:
    """Whoever is in a hurry still gets into the next batch."""
    pace = learned(clock, staging_s=0.004, compute_s=0.1)
    pace.handed_over(COST)
    assert pace.next_in_s(full=True) == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("full", "expected"),
    [pytest.param(False, inf, id="would grow"), pytest.param(True, 0.0, id="cannot grow")],
)
def test_behind_a_short_batch_only_a_full_one_is_taken_early(clock: Clock, full: bool, expected: float) -> None:
    """Taken early it would only be smaller."""
    pace = learned(clock, staging_s=0.0001, compute_s=0.001)
    pace.handed_over(COST)
    assert pace.next_in_s(full=full) == expected


def test_a_size_that_was_never_seen_is_waited_for(clock: Clock) -> None:
    """Nothing is guessed from batches of another size."""
    pace = learned(clock, staging_s=0.001, compute_s=0.1)
    pace.handed_over(100 * COST)
    assert pace.next_in_s(full=False) == inf


def test_batches_behind_each_other_end_behind_each_other(clock: Clock) -> None:
    """Two of 0.1 s: the device is free after both."""
    pace = learned(clock, staging_s=0.0, compute_s=0.1)
    pace.handed_over(COST)
    pace.handed_over(COST)
    assert pace.next_in_s(full=False) == pytest.approx(0.198)


def test_what_a_wrong_guess_cost_is_not_carried_on(clock: Clock) -> None:
    """The end of a batch says when the next one ends."""
    pace = learned(clock, staging_s=0.0, compute_s=0.1)
    pace.handed_over(COST)
    pace.handed_over(COST)
    clock.now += 0.5
    pace.finished(staging_s=0.0, compute_s=0.1)
    assert pace.next_in_s(full=False) == pytest.approx(0.098)

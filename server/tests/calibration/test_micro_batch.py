"""How many rows a pass takes is measured: in bounded time, and noise does not choose it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from midrib.server._calibration.micro_batch import tune_rows

MOST = 55


class Machine:
    """Passes that take what the test says, and a clock that they move.

    each_s: the seconds of a row, by the rows of its pass.  disturbances: by the number of a run, how much longer it
    takes.
    """

    def __init__(self, each_s: Callable[[int], float], disturbances: dict[int, float] | None = None) -> None:
        self._each_s, self._disturbances = each_s, disturbances or {}
        self.now = 0.0
        self.ran: list[int] = []

    def work(self, rows: int) -> None:
        self.now += rows * self._each_s(rows) * self._disturbances.get(len(self.ran), 1.0)
        self.ran.append(rows)

    def clock(self) -> float:
        return self.now


def tuned(machine: Machine, seconds: float = math.inf) -> int:
    return tune_rows(machine.work, MOST, seconds=seconds, clock=machine.clock)


def convolution(rows: int) -> float:
    """As measured: the fastest by fours, then out of the cache."""
    return {1: 0.021, 2: 0.017, 4: 0.0153, 8: 0.0175, 16: 0.021, 32: 0.027}.get(rows, 0.036)


def perceptron(rows: int) -> float:
    return 20e-6 / rows + 1e-6


@pytest.mark.parametrize(
    ("each_s", "rows"),
    [
        pytest.param(convolution, 4, id="a convolution's cache"),
        pytest.param(perceptron, MOST, id="a perceptron's batches stay whole"),
        pytest.param(lambda rows: 0.01 + 0.02 / rows, MOST, id="faster with every row"),
        pytest.param(lambda _: 0.02, MOST, id="as fast by one as by many"),
        pytest.param(lambda rows: {8: 0.0100, 16: 0.0104}.get(rows, 0.012), 16, id="no fewer rows for a few percent"),
        pytest.param(lambda rows: 0.02 * rows, 1, id="the fastest one by one"),
        pytest.param(lambda rows: 1e-5 * rows**0.5, MOST, id="too short to divide"),
    ],
)
def test_the_fastest_number_of_rows_is_chosen(each_s: Callable[[int], float], rows: int) -> None:
    """Of those about as fast, the most: fewer are more passes."""
    assert tuned(Machine(each_s)) == rows


def test_a_disturbance_does_not_choose() -> None:
    """A neighbour that slows down every fifth run, whosever it is, changes nothing."""
    noise = {run: 1.5 for run in range(2, 100, 5)}
    assert tuned(Machine(convolution, noise)) == 4


def test_a_lucky_run_does_not_choose() -> None:
    """Passes of two rows fit more often between what else the machine does: one was a seventh faster, once."""
    assert tuned(Machine(lambda rows: 0.01 if rows <= 8 else 0.02, {7: 0.85})) == 8


def test_short_passes_are_not_divided_because_of_noise() -> None:
    """Runs of eight and of thirty-two rows that something else made long are measured again, and were short."""
    assert tuned(Machine(perceptron, {3: 1e3, 5: 2.2e3})) == MOST


def test_numbers_beyond_two_that_lose_are_not_tried() -> None:
    """Sixteen rows take a third more each than four, and thirty-two more again: the rest cannot be worth its time."""
    machine = Machine(convolution)
    tuned(machine)
    assert sorted(set(machine.ran)) == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_measuring_has_its_time(seconds: float) -> None:
    """As long again is the most that what was begun in it takes."""
    machine = Machine(convolution)
    tuned(machine, seconds)
    assert machine.now <= 2 * seconds


def test_the_search_goes_on_while_it_gains() -> None:
    """On a machine that is busy loading something else, too: a quarter of the time would have ended it at two rows."""
    machine = Machine(lambda rows: 4 * convolution(rows))
    assert (tuned(machine, 1.1), machine.ran) == (4, [1, 2, 4, 8] * 2)


def test_a_slow_backbone_keeps_whole_batches() -> None:
    """A pass of one row has taken the time: nothing is known of more, which share the reading of the weights."""
    machine = Machine(lambda _: 3.0)
    assert (tuned(machine, 2.0), machine.ran) == (MOST, [1])


def test_time_that_ends_while_more_rows_still_gain_keeps_whole_batches() -> None:
    """Four are far faster than two, and there is no time for eight."""
    machine = Machine(lambda rows: 0.1 + 0.2 / rows)
    assert (tuned(machine, 2.0), machine.ran) == (MOST, [1, 2, 4])


def test_time_that_ends_where_more_rows_no_longer_gain_divides() -> None:
    """Four are hardly faster than two: beyond them there is nothing to be had."""
    machine = Machine(lambda rows: {1: 0.06, 2: 0.05}.get(rows, 0.049))
    assert tuned(machine, 1.6) == 4


def test_no_time_is_none() -> None:
    """Nothing runs."""
    machine = Machine(convolution)
    assert (tuned(machine, 0.0), machine.ran) == (MOST, [])

"""The fastest candidate is chosen by measurement: in bounded time, and not by noise."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from midrib.server._calibration.fastest import fastest
from midrib.server._calibration.threads import thread_counts


class Machine:
    """Candidates that take the seconds that the test says, and a clock that they move.

    slowdown: returns the factor by which a run takes longer, given its number.
    """

    def __init__(self, seconds: dict[str, float], slowdown: Callable[[int], float] = lambda _: 1.0) -> None:
        self._seconds, self._slowdown = seconds, slowdown
        self.now = 0.0
        self.ran: list[str] = []

    def work(self, candidate: str) -> None:
        self.now += self._seconds[candidate] * self._slowdown(len(self.ran))
        self.ran.append(candidate)

    def choose(self, *, margin: float = 0.1, seconds: float = 2.0) -> str:
        return fastest([*self._seconds], self.work, margin=margin, seconds=seconds, clock=lambda: self.now)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        pytest.param({"a": 0.010, "b": 0.006, "c": 0.004}, "c", id="the fastest"),
        pytest.param({"a": 0.010, "b": 0.012, "c": 0.020}, "a", id="the preferred one is the fastest"),
        pytest.param({"a": 0.010, "b": 0.0095, "c": 0.0093}, "a", id="a few percent are not enough"),
        pytest.param({"a": 0.010, "b": 0.006, "c": 0.0058}, "b", id="the first of those about as fast"),
    ],
)
def test_the_first_candidate_that_none_beats_is_chosen(seconds: dict[str, float], chosen: str) -> None:
    """A later one must be faster by the margin."""
    assert Machine(seconds).choose() == chosen


@pytest.mark.parametrize(
    "slowdown",
    [
        pytest.param(lambda run: 1.5 if run % 5 == 2 else 1.0, id="every fifth run"),
        pytest.param(lambda run: 10.0 if run in (3, 4, 5, 6) else 1.0, id="a few runs in sequence"),
        pytest.param(lambda run: 3.0 if run > 9 else 1.0, id="from some moment on"),
    ],
)
def test_a_disturbance_does_not_choose(slowdown: Callable[[int], float]) -> None:
    """Other work of the machine slows the candidates that run at that time, and the choice stays the same."""
    assert Machine({"a": 0.010, "b": 0.005, "c": 0.008}, slowdown).choose() == "b"


@pytest.mark.parametrize("gain", [0.0, 0.15], ids=["equally fast", "faster by less than the noise"])
def test_ten_loads_of_a_busy_machine_choose_the_same(gain: float) -> None:
    """A candidate replaces a preferred one only if it is faster by more than the noise of the measurement."""
    noises = [random.Random(seed) for seed in range(10)]
    machines = [
        Machine({"a": 0.01, "b": 0.01 * (1 - gain)}, lambda _, noise=noise: noise.lognormvariate(0.0, 0.6))  # type: ignore[misc] # a loop variable
        for noise in noises
    ]
    assert [machine.choose() for machine in machines] == ["a"] * 10


def test_a_hopeless_candidate_is_measured_once() -> None:
    """Threads that spin against each other are slower by a factor of hundreds."""
    machine = Machine({"a": 0.001, "b": 0.0012, "c": 0.05})
    machine.choose()
    assert [machine.ran.count(candidate) for candidate in "abc"] == [16, 16, 1]


def test_a_busy_machine_gets_the_least_number_of_trials() -> None:
    """They take more than twice the time given: fewer trials would choose by chance."""
    machine = Machine({"a": 0.4, "b": 0.3})
    assert (machine.choose(), machine.ran) == ("b", ["a", "b"] * 8)


@pytest.mark.parametrize(("other", "chosen"), [(2.0, "b"), (3.0, "a")], ids=["twice as fast", "a quarter faster"])
def test_a_slow_backbone_is_measured_once(other: float, chosen: str) -> None:
    """A single trial says little, so a candidate must be faster by 30 %."""
    machine = Machine({"a": 4.0, "b": other})
    assert (machine.choose(), machine.ran) == (chosen, ["a", "b"])


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.0, 5.0])
def test_measuring_takes_at_most_three_times_its_time(seconds: float) -> None:
    """One trial of each candidate is measured in addition."""
    machine = Machine({"a": 0.1, "b": 0.08})
    machine.choose(seconds=seconds)
    assert machine.now <= 3 * seconds + 0.18


@pytest.mark.parametrize(
    ("seconds", "budget_s"), [({"a": 1.0, "b": 0.1}, 0.0), ({"a": 1.0}, 2.0)], ids=["no time", "one candidate"]
)
def test_the_preferred_candidate_is_chosen_without_measuring(seconds: dict[str, float], budget_s: float) -> None:
    """If there is nothing to choose, or no time to measure in."""
    machine = Machine(seconds)
    assert (machine.choose(seconds=budget_s), machine.ran) == ("a", [])


def test_replicas_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores for two replicas are four for each."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [thread_counts(), thread_counts(2), thread_counts(100)] == [[1, 2, 4, 8], [1, 2, 4], [1]]

"""The intra-op thread count is measured, and noise does not choose it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from midrib.server._calibration.threads import thread_counts, tune


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """Work that takes what the test says at each thread count, and a clock that it moves.

    seconds: by thread count.  disturbances: by the number of a run, how much longer it takes.
    """

    def __init__(self, seconds: dict[int, float], disturbances: dict[int, float] | None = None) -> None:
        self._seconds, self._disturbances = seconds, disturbances or {}
        self.now = 0.0
        self.ran: list[int] = []

    def work(self) -> None:
        count = torch.get_num_threads()
        self.now += self._seconds[count] * self._disturbances.get(len(self.ran), 1.0)
        self.ran.append(count)

    def clock(self) -> float:
        return self.now


def tuned(machine: Machine) -> int:
    works: list[Callable[[], object]] = [machine.work]
    chosen = tune(works, [1, 2, 4], clock=machine.clock)
    assert torch.get_num_threads() == chosen
    return chosen


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        pytest.param({1: 1e-3, 2: 6e-4, 4: 4e-4}, 4, id="the fastest"),
        pytest.param({1: 1e-3, 2: 0.1, 4: 0.2}, 1, id="spinning threads"),
        pytest.param({1: 1e-3, 2: 9.5e-4, 4: 9.3e-4}, 1, id="no more threads for a few percent"),
    ],
)
def test_the_fastest_count_is_set(seconds: dict[int, float], best: int) -> None:
    """Of those about as fast, the one with the fewest threads."""
    assert tuned(Machine(seconds)) == best


def test_a_disturbance_does_not_choose() -> None:
    """A neighbour that slows down every second run, whosever it is, changes nothing."""
    noise = {run: 10.0 for run in range(0, 12, 2)}
    assert tuned(Machine({1: 1e-3, 2: 5e-4, 4: 8e-4}, noise)) == 2


def test_a_hopeless_count_is_measured_once() -> None:
    """It has shown itself in a warm-up and a run; the others take turns."""
    machine = Machine({1: 1e-3, 2: 1.2e-3, 4: 0.05})
    tuned(machine)
    assert [machine.ran.count(count) for count in (1, 2, 4)] == [4, 4, 2]


def test_a_slow_backbone_is_measured_once() -> None:
    """No turn begins after two seconds: the first one's times have to do."""
    machine = Machine({1: 4.0, 2: 2.0, 4: 1.0})
    assert (tuned(machine), machine.ran) == (4, [1, 2, 4])


def test_replicas_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores for two replicas are four for each."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [thread_counts(), thread_counts(2), thread_counts(100)] == [[1, 2, 4, 8], [1, 2, 4], [1]]

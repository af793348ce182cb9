"""A CPU computes the pieces of a batch side by side, where that was measured to be faster."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from midrib.registry import TensorInput
from midrib.server._calibration.width import tune_width
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.forward import ComputeConfig, Forward
from midrib.server._compute.parallel_passes import ParallelPasses

PAIR = TensorInput((2,))
WAIT_S = 20.0


class Passes(nn.Module):
    """Notes, of every pass, its rows, its thread and that thread's intra-op count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        self.rows: list[int] = []
        self.threads: set[str] = set()
        self.counts: set[int] = set()

    def forward(self, batch: Tensor) -> Tensor:
        self.rows.append(len(batch))
        self.threads.add(threading.current_thread().name)
        self.counts.add(torch.get_num_threads())
        features: Tensor = self.layers(batch)
        return features


class Meeting(nn.Module):
    """No pass ends before another has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)

    def forward(self, batch: Tensor) -> Tensor:
        self.barrier.wait(WAIT_S)
        return batch


def with_crew(module: nn.Module, width: int, *, rows: int | None = None, threads: int = 1) -> Forward:
    """Forward passes of at most so many rows, so many side by side."""
    forward = Forward(module, PAIR, ComputeConfig(dtype="float64"))
    assert isinstance(forward.device, CpuDevice)
    forward.device.parallel_passes = ParallelPasses(width, threads)
    forward.device.micro_batch_elements = None if rows is None else 2 * rows
    return forward


def rows_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 2), np.float32)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 10))
def test_the_rows_are_those_of_a_whole_batch(items: list[int], width: int, piece: int) -> None:
    """In their order, whoever computed them."""
    module, batch = Passes(), [(rows_of(count),) for count in items]
    whole, got = Forward(module, PAIR, ComputeConfig(dtype="float64"))(batch), with_crew(module, width, rows=piece)(
        batch
    )
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(whole), rtol=1e-12)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 5))
def test_gradients_are_those_of_a_whole_batch(rows: int, width: int, piece: int) -> None:
    """They are computed in the same pieces."""
    module, batch = Passes(), [(rows_of(rows), np.ones((rows, 3), np.float32))]
    (whole,), (got,) = Forward(module, PAIR, ComputeConfig(dtype="float64"))(batch), with_crew(
        module, width, rows=piece
    )(batch)
    np.testing.assert_allclose(got, whole, rtol=1e-12)


def test_two_passes_run_at_a_time() -> None:
    """Each of these waits for the other."""
    (rows,) = with_crew(Meeting(), 2)([(rows_of(6),)])
    np.testing.assert_array_equal(rows, rows_of(6))


@pytest.mark.parametrize(
    ("rows", "piece", "passes"),
    [
        pytest.param(10, None, [5, 5], id="equal shares of a whole batch"),
        pytest.param(10, 4, [2, 2, 3, 3], id="as many passes for each, where three would be enough"),
        pytest.param(3, 1, [1, 1, 1], id="no pass without rows"),
        pytest.param(2, 8, [1, 1], id="a row for each"),
    ],
)
def test_everyone_computes_as_many_rows(rows: int, piece: int | None, passes: list[int]) -> None:
    """To a row, and to a pass: nobody waits while another computes what could have been shared."""
    module = Passes()
    with_crew(module, 2, rows=piece)([(rows_of(rows),)])
    assert sorted(module.rows) == passes


def test_too_few_rows_are_one_pass_of_the_replica_itself() -> None:
    """It has all the threads for itself."""
    module = Passes()
    with_crew(module, 4)([(rows_of(3),)])
    assert (module.rows, module.threads) == ([3], {threading.current_thread().name})


def test_a_pass_has_its_number_of_threads() -> None:
    """Whatever the replica's own is."""
    module, before = Passes(), torch.get_num_threads()
    with_crew(module, 2, threads=before + 1)([(rows_of(8),)])
    assert module.counts == {before + 1}
    assert torch.get_num_threads() == before


def test_a_failure_is_raised_once_nobody_reads_the_batch() -> None:
    """The next one is written over it."""
    failed, ended = threading.Event(), threading.Event()

    def fail() -> Tensor:
        failed.set()
        raise ValueError("a bad row")

    def go_on() -> Tensor:
        failed.wait(WAIT_S)
        torch.linalg.matrix_power(torch.ones(300, 300), 1000)
        ended.set()
        return torch.ones(1)

    with pytest.raises(ValueError, match="a bad row"):
        ParallelPasses(2, 1).run([fail, go_on])
    assert ended.is_set()


def test_its_threads_end_with_it() -> None:
    """A thousand loads leave none behind."""
    before = set(threading.enumerate())
    parallel_passes = ParallelPasses(2, 1)
    parallel_passes.run([lambda: torch.ones(1)] * 2)
    mine = set(threading.enumerate()) - before
    del parallel_passes
    for thread in mine:
        thread.join(WAIT_S)
    assert mine
    assert not any(thread.is_alive() for thread in mine)


class Machine:
    """Batches that take what the test says at each width, and a clock that they move.

    seconds: by width.  disturbances: by the number of a run, how much longer it takes.
    """

    def __init__(self, seconds: dict[int, float], disturbances: dict[int, float] | None = None) -> None:
        self._seconds, self._disturbances = seconds, disturbances or {}
        self.now = 0.0
        self.ran: list[int] = []

    def work(self, width: int) -> None:
        self.now += self._seconds[width] * self._disturbances.get(len(self.ran), 1.0)
        self.ran.append(width)

    def clock(self) -> float:
        return self.now


def tuned(machine: Machine, seconds: float = 10.0) -> int:
    return tune_width(machine.work, [1, 2, 4], seconds=seconds, clock=machine.clock)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        pytest.param({1: 0.16, 2: 0.13, 4: 0.15}, 2, id="the fastest"),
        pytest.param({1: 0.10, 2: 0.13, 4: 0.15}, 1, id="one after the other"),
        pytest.param({1: 0.10, 2: 0.12, 4: 0.11}, 4, id="side by side, where that costs a tenth"),
        pytest.param({1: 4e-3, 2: 2e-3, 4: 2e-3}, 1, id="too short to divide"),
    ],
)
def test_the_fastest_width_is_chosen(seconds: dict[int, float], best: int) -> None:
    """Of a batch's time."""
    assert tuned(Machine(seconds)) == best


def test_a_disturbance_does_not_choose() -> None:
    """Neither one that slows a run down, nor a first run that has to warm up."""
    machine = Machine({1: 0.16, 2: 0.13, 4: 0.20}, {1: 10.0, 4: 2.0})
    assert tuned(machine) == 2


def test_a_slow_backbone_is_measured_once() -> None:
    """No turn begins after the time: the first one's has to do."""
    machine = Machine({1: 4.0, 2: 2.0, 4: 3.0})
    assert (tuned(machine, 2.0), machine.ran) == (2, [1, 2, 4])

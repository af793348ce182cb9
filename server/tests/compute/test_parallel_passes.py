"""A CPU computes the micro-batches of a batch in parallel, if that was measured to be faster."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from midrib.registry import TensorInput
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.forward import Forward
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


def parallel(module: nn.Module, width: int, *, rows: int | None = None, threads: int = 1) -> Forward:
    """Return a forward of `width` parallel passes, each of at most `rows` rows."""
    forward = Forward(module, PAIR, ComputeConfig(dtype="float64"))
    assert isinstance(forward.device, CpuDevice)
    forward.device.parallel_passes = ParallelPasses(width, threads)
    forward.device.micro_batch_elements = None if rows is None else 2 * rows
    return forward


def rows_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 2), np.float32)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 10))
def test_the_rows_are_those_of_a_whole_batch(items: list[int], width: int, micro_batch: int) -> None:
    """The rows are in order, whichever thread computed them."""
    module, batch = Passes(), [(rows_of(count),) for count in items]
    expected = Forward(module, PAIR, ComputeConfig(dtype="float64"))(batch)
    rows = parallel(module, width, rows=micro_batch)(batch)
    np.testing.assert_allclose(np.concatenate(rows), np.concatenate(expected), rtol=1e-12)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 5))
def test_gradients_are_those_of_a_whole_batch(rows: int, width: int, micro_batch: int) -> None:
    """They are computed in the same micro-batches."""
    module, batch = Passes(), [(rows_of(rows), np.ones((rows, 3), np.float32))]
    (expected,) = Forward(module, PAIR, ComputeConfig(dtype="float64"))(batch)
    (gradient,) = parallel(module, width, rows=micro_batch)(batch)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_two_passes_run_at_a_time() -> None:
    """Each of these waits for the other."""
    (rows,) = parallel(Meeting(), 2)([(rows_of(6),)])
    np.testing.assert_array_equal(rows, rows_of(6))


@pytest.mark.parametrize(
    ("rows", "micro_batch", "passes"),
    [
        pytest.param(10, None, [5, 5], id="equal shares of a expected batch"),
        pytest.param(10, 4, [2, 2, 3, 3], id="as many passes for each, where three would be enough"),
        pytest.param(3, 1, [1, 1, 1], id="no pass without rows"),
        pytest.param(2, 8, [1, 1], id="a row for each"),
    ],
)
def test_passes_have_equal_shares(rows: int, micro_batch: int | None, passes: list[int]) -> None:
    """They differ by one row at most, and every thread has as many passes: none waits for another that has more."""
    module = Passes()
    parallel(module, 2, rows=micro_batch)([(rows_of(rows),)])
    assert sorted(module.rows) == passes


def test_too_few_rows_are_one_pass_of_the_replicas_thread() -> None:
    """It has all intra-op threads."""
    module = Passes()
    parallel(module, 4)([(rows_of(3),)])
    assert (module.rows, module.threads) == ([3], {threading.current_thread().name})


def test_a_pass_has_its_number_of_threads() -> None:
    """The count of the replica's thread stays the same."""
    module, before = Passes(), torch.get_num_threads()
    parallel(module, 2, threads=before + 1)([(rows_of(8),)])
    assert module.counts == {before + 1}
    assert torch.get_num_threads() == before


def test_a_failure_is_raised_once_all_passes_have_ended() -> None:
    """The next batch is written over the rows that they read."""
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
    started = set(threading.enumerate()) - before
    del parallel_passes
    for thread in started:
        thread.join(WAIT_S)
    assert started
    assert not any(thread.is_alive() for thread in started)

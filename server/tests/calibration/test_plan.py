"""The compute plan of a backbone on a CPU is measured once: threads, parallel passes, micro-batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import Backbone
from midrib.registry import InputSpec, TensorInput, TextInput
from midrib.server._calibration import plan
from midrib.server._calibration.parity import parity_reference
from midrib.server._calibration.plan import PassCalibration, choose_threads
from midrib.server._catalogue.device_setup import DeviceSetup, WarmUpConfig
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.forward import Forward
from midrib.server._engine.batch_limits import BatchLimits

LIMITS = BatchLimits(max_rows=64, max_cost=1024, max_queue_items=10, max_queue_cost=1000)
PAIR = TensorInput((2,))
Measured = list[tuple[int, ...]]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Timed(nn.Module):
    """Records the shape of every pass, which takes `each_s` seconds a row, or a pass, by the clock that it moves."""

    def __init__(self, each_s: float = 1e-3, *, by_rows: bool = True) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.now, self._each_s, self._by_rows = 0.0, each_s, by_rows

    def forward(self, rows: Tensor) -> Tensor:
        self.shapes.append(tuple(rows.shape))
        self.now += (len(rows) if self._by_rows else 1) * self._each_s
        return rows[:, :2].float()


class Asleep(nn.Module):
    """Sleeps for `each_s` seconds a row, so that parallel passes do not slow each other down."""

    def __init__(self, each_s: float = 5e-3) -> None:
        super().__init__()
        self._each_s = each_s

    def forward(self, rows: Tensor) -> Tensor:
        time.sleep(len(rows) * self._each_s)
        return rows + 0


@pytest.fixture()
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """The candidates of every measurement, each of which chooses the second one."""
    measurements: Measured = []

    def fastest(candidates: Sequence[int], work: Callable[[int], object], **_: object) -> int:
        measurements.append(tuple(candidates))
        chosen = candidates[min(1, len(candidates) - 1)]
        work(chosen)
        return chosen

    monkeypatch.setattr(plan, "fastest", fastest)
    return measurements


def passes_of(module: Timed, spec: InputSpec = PAIR, *, threads: int = 1) -> PassCalibration:
    forward = Forward(module, spec)
    assert isinstance(forward.device, CpuDevice)
    return PassCalibration(
        forward, forward.device, LIMITS, threads, 2.0, clock=lambda: module.now, size_clock=lambda: module.now
    )


def setup(module: nn.Module, *, warm_up_s: float = 2.0, threads: Sequence[int] = (1,), **config: Any) -> DeviceSetup:
    backbone = Backbone("test/embedding/one", module.eval(), 2, PAIR)
    warm_up_config = WarmUpConfig(LIMITS, warm_up_s, threads)
    reference = parity_reference(backbone)
    return DeviceSetup(backbone, module, ComputeConfig(**config), reference, warm_up_config, tf32=False)


def device_of(device_setup: DeviceSetup) -> CpuDevice:
    forward = device_setup.compute()
    assert isinstance(forward.device, CpuDevice)
    return forward.device


@pytest.mark.parametrize(
    ("spec", "each_s", "candidates", "elements"),
    [
        pytest.param(PAIR, 1e-3, (64, 32, 16, 8), 32 * 2, id="as many rows as a batch may have"),
        pytest.param(TensorInput((100,)), 1e-3, (10, 8), 8 * 100, id="as many as its elements allow"),
        pytest.param(TextInput(256), 1e-3, (32, 16, 8), 16 * 32, id="texts of a usual length"),
        pytest.param(PAIR, 0.019, (5, 4, 2, 1), 4 * 2, id="as many as take a tenth of a second"),
        pytest.param(PAIR, 1e-6, (64,), None, id="passes too short to be split"),
    ],
)
def test_micro_batches_are_halves_of_a_batch(
    measured: Measured, spec: InputSpec, each_s: float, candidates: tuple[int, ...], elements: int | None
) -> None:
    """The whole batch is preferred, no pass is shorter than 5 ms, and the choice is in elements."""
    assert passes_of(Timed(each_s), spec).choose_micro_batch(1) == elements
    assert measured == [candidates]


def test_parallel_passes_share_a_batch(measured: Measured) -> None:
    """Three at the same time take 22 rows each of 64."""
    assert passes_of(Timed()).choose_micro_batch(3) == 16 * 2
    assert measured == [(22, 16, 8, 4, 2)]


def test_a_pass_of_one_row_is_not_split(measured: Measured) -> None:
    """Nothing is measured for it."""
    assert (passes_of(Timed(0.03)).choose_micro_batch(4), measured) == (None, [])


@pytest.mark.parametrize(
    ("each_s", "candidates"),
    [
        pytest.param(1e-3, [(4, 2, 1)], id="the most passes are preferred"),
        pytest.param(0.06, [(4, 2, 1)], id="a row for each pass, though a tenth of a second holds one row"),
        pytest.param(0.4, [(2, 1)], id="as many as there are rows in a second"),
        pytest.param(0.6, [], id="one row in a second"),
        pytest.param(1e-6, [], id="a batch too short to hand over"),
    ],
)
def test_the_number_of_parallel_passes_is_measured(
    measured: Measured, each_s: float, candidates: list[tuple[int, ...]]
) -> None:
    """The candidates are the numbers that the threads allow."""
    passes_of(Timed(each_s), threads=4).choose_width(1)
    assert measured == candidates


@pytest.mark.parametrize(
    ("lone_threads", "max_rows", "width"),
    [
        pytest.param(1, 64, 4, id="a row is fastest by one thread"),
        pytest.param(4, 64, 1, id="a row is fastest by all threads"),
        pytest.param(1, 1, 1, id="a batch has only one row"),
    ],
)
def test_passes_of_rows_too_slow_to_be_measured_have_the_threads_of_a_row(
    measured: Measured, lone_threads: int, max_rows: int, width: int
) -> None:
    """On a busy machine, a row of 60 ms may take more than half of a second."""
    passes = replace(passes_of(Timed(0.6), threads=4), limits=replace(LIMITS, max_rows=max_rows))
    assert (passes.choose_width(lone_threads), measured) == (width, [])


def test_other_work_does_not_change_the_size_of_a_batch(measured: Measured) -> None:
    """Passes that take 1 ms of processor time are not split, however long they wait for a processor."""
    module = Timed(each_s=1e-3)
    forward = Forward(module, PAIR)
    assert isinstance(forward.device, CpuDevice)
    idle_s = iter(range(1000))
    passes = PassCalibration(forward, forward.device, LIMITS, 4, 2.0, lambda: module.now, lambda: 1e-3 * next(idle_s))
    assert (passes.rows, passes.choose_width(1), measured) == (64, 1, [])


@pytest.mark.parametrize(
    ("each_s", "rows"),
    [
        pytest.param(2.0, 1, id="one row"),
        pytest.param(0.05, 20, id="as many as take a second"),
    ],
)
def test_a_module_that_waits_is_measured_by_short_batches(each_s: float, rows: int) -> None:
    """Its passes take no processor time, so that batches sized by that alone would take minutes."""
    module = Timed(each_s)
    forward = Forward(module, PAIR)
    assert isinstance(forward.device, CpuDevice)
    assert PassCalibration(forward, forward.device, LIMITS, 1, 2.0, lambda: module.now, lambda: 0.0).rows == rows


def test_micro_batches_of_passes_that_all_take_equally_long_are_not_measured(measured: Measured) -> None:
    """Each pass takes 50 ms, so that 16 rows at a time are slower than 20, and fewer are hopeless."""
    module = Timed(0.05, by_rows=False)
    forward = Forward(module, PAIR)
    assert isinstance(forward.device, CpuDevice)
    passes = PassCalibration(forward, forward.device, LIMITS, 1, 2.0, lambda: module.now, lambda: 0.0)
    passes.choose_micro_batch(1)
    assert measured == [(20, 16)]


def test_the_replicas_of_a_device_measure_once(monkeypatch: pytest.MonkeyPatch, measured: Measured) -> None:
    """The second one takes over the plan of the first, with another pool."""
    monkeypatch.setattr(plan, "_SHORT_S", 0.0)  # the module takes no processor time
    shared = setup(Asleep(), threads=[1, 2])
    first, second = device_of(shared), device_of(shared)
    assert first.micro_batch_elements == second.micro_batch_elements
    assert [candidates[:2] for candidates in measured[:2]] == [(1, 2), (2, 1)]
    assert len(measured) == 3


def test_parallel_passes_are_chosen_if_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every replica has its own pool, and the log describes the plan once."""
    monkeypatch.setattr(plan, "_SHORT_S", 0.0)  # the module takes no processor time
    caplog.set_level("INFO", "midrib.server")
    shared = setup(Asleep(), threads=[1, 2])
    pools = [device_of(shared).parallel_passes for _ in range(2)]
    assert [pool is not None and pool.width for pool in pools] == [2, 2]
    assert pools[0] is not pools[1]
    (message,) = (text for text in caplog.messages if "embedding/one" in text)  # a busy machine adds words
    assert message.startswith("backbone test/embedding/one computes with 1 thread a pass, or 2 passes side by side")


@pytest.mark.parametrize(
    "unmeasured",
    [
        pytest.param({"threads": [1]}, id="one thread"),
        pytest.param({"warm_up_s": 0.0}, id="no time to measure"),
        pytest.param({"strict": True}, id="strict"),
    ],
)
def test_batches_are_otherwise_computed_by_one_pass_at_a_time(unmeasured: dict[str, Any]) -> None:
    """Parallel passes are impossible then, or not known to be faster."""
    assert device_of(setup(Asleep(), **{"threads": [1, 2], **unmeasured})).parallel_passes is None


@pytest.mark.parametrize(("backend", "widths"), [(None, [(2, 1)]), ("eager", [])], ids=["as it is", "compiled"])
def test_a_compiled_module_is_computed_by_one_pass_at_a_time(
    monkeypatch: pytest.MonkeyPatch, measured: Measured, backend: str | None, widths: Measured
) -> None:
    """It is compiled for one number of threads."""
    monkeypatch.setattr(plan, "_SHORT_S", 0.0)
    device_of(setup(nn.Linear(2, 2), threads=[1, 2], compile=backend))
    assert [candidates for candidates in measured if candidates == (2, 1)] == widths


@pytest.mark.parametrize("counts", [[1], [1, 2]], ids=["one", "two"])
def test_one_of_the_counts_is_set(counts: list[int]) -> None:
    """A single one is not measured."""
    chosen = choose_threads(Forward(Timed(), PAIR), counts)
    assert chosen in counts
    assert torch.get_num_threads() == chosen


@pytest.mark.parametrize(
    ("each_s", "rows"),
    [
        pytest.param(1e-4, [1, 16], id="sixteen rows"),
        pytest.param(0.03, [1, 3], id="as many as take a tenth of a second"),
        pytest.param(1.0, [1], id="a slow backbone only a single row"),
    ],
)
def test_threads_are_chosen_by_single_rows_and_a_batch(each_s: float, rows: list[int]) -> None:
    """A load does not wait for sixteen rows that take seconds each."""
    module = Timed(each_s)
    choose_threads(Forward(module, PAIR), [1, 2], clock=lambda: module.now)
    assert sorted({shape[0] for shape in module.shapes}) == rows


@pytest.mark.parametrize(
    ("each_s", "batches"),
    [
        pytest.param(1e-3, 1, id="parallel passes compute the batch: it is only timed"),
        pytest.param(1e-4, 1 + 2 * 16, id="the batch is too short to be divided: it is part of all trials"),
    ],
)
def test_single_rows_choose_the_threads_beside_parallel_passes(each_s: float, batches: int) -> None:
    """Parallel passes do not use these threads: by a batch, which gains less, two servers would choose differently."""
    module = Timed(each_s)
    choose_threads(Forward(module, PAIR), [1, 2], parallel=True, clock=lambda: module.now)
    assert module.shapes.count((16, 2)) == batches

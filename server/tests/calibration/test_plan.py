"""A backbone on a CPU is measured once: its threads, then the rows that it takes at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import Backbone
from midrib.registry import InputSpec, TensorInput, TextInput
from midrib.server._calibration import micro_batch
from midrib.server._calibration.parity import parity_reference
from midrib.server._calibration.plan import choose_micro_batch, choose_threads, choose_width
from midrib.server._catalogue import device_setup
from midrib.server._catalogue.device_setup import DeviceSetup, WarmUpConfig
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.forward import ComputeConfig, Forward
from midrib.server._compute.parallel_passes import ParallelPasses
from midrib.server._engine.batch_limits import BatchLimits

LIMITS = BatchLimits(max_rows=64, max_cost=1024, max_queue_items=10, max_queue_cost=1000)
PAIR = TensorInput((2,))


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Passes(nn.Module):
    """Notes the shape of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.shapes.append(tuple(rows.shape))
        return rows[:, :2].float()


@pytest.fixture()
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every measurement of rows, which finds one row less than half of the most; it runs each number once."""
    seen: list[dict[str, Any]] = []

    def tune_rows(work: Callable[[int], object], most: int, *, seconds: float) -> int:
        seen.append({"most": most, "seconds": seconds})
        work(most)
        return most // 2 - 1

    monkeypatch.setattr(micro_batch, "tune_rows", tune_rows)
    return seen


def setup(
    module: nn.Module,
    *,
    warm_up_s: float = math.inf,
    threads: Sequence[int] = (1,),
    **config: Any,
) -> DeviceSetup:
    backbone = Backbone("test/embedding/one", module.eval(), 2, PAIR)
    return DeviceSetup(
        backbone,
        module,
        ComputeConfig(**config),
        parity_reference(backbone),
        WarmUpConfig(LIMITS, warm_up_s, threads),
        tf32=False,
    )


def device_of(one: DeviceSetup) -> CpuDevice:
    forward = one.prepare()
    assert isinstance(forward, Forward)
    assert isinstance(forward.device, CpuDevice)
    return forward.device


def piece_of(one: DeviceSetup) -> int | None:
    return device_of(one).micro_batch_elements


def width_of(one: DeviceSetup) -> int:
    parallel_passes = device_of(one).parallel_passes
    return 1 if parallel_passes is None else parallel_passes.width


@pytest.mark.parametrize(
    ("spec", "shape", "piece"),
    [
        pytest.param(PAIR, (64, 2), 31 * 2, id="as many rows as a batch may have"),
        pytest.param(TensorInput((100,)), (10, 100), 4 * 100, id="as many as its elements allow"),
        pytest.param(TextInput(256), (32, 32), 15 * 32, id="texts of a usual length"),
        pytest.param(TextInput(8), (64, 8), 31 * 8, id="texts of the longest, where that is less"),
    ],
)
def test_a_piece_is_sought_within_the_limits_of_a_batch(
    measured: list[dict[str, Any]], spec: InputSpec, shape: tuple[int, ...], piece: int
) -> None:
    """And counted in elements."""
    module = Passes()
    assert choose_micro_batch(Forward(module, spec), 1, LIMITS, 2.0) == piece
    assert module.shapes == [shape]
    assert measured == [{"most": shape[0], "seconds": 2.0}]


def test_a_share_of_a_batch_is_the_most_that_a_pass_takes(measured: list[dict[str, Any]]) -> None:
    """Three side by side take 22 rows each of 64, and are measured together."""
    module = Passes()
    assert choose_micro_batch(Forward(module, PAIR), 3, LIMITS, 2.0) == 10 * 2
    assert (module.shapes, measured) == ([(66, 2)], [{"most": 22, "seconds": 2.0}])


def test_a_row_larger_than_a_batch_may_be_is_a_piece(measured: list[dict[str, Any]]) -> None:
    """A batch is one row then, and never none."""
    choose_micro_batch(Forward(Passes(), TensorInput((5000,))), 1, LIMITS, 2.0)
    assert measured == [{"most": 1, "seconds": 2.0}]


def test_whole_batches_are_no_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the most rows are the fastest, a longer text's batch is not divided either."""
    monkeypatch.setattr(micro_batch, "tune_rows", lambda _, most, **__: most)
    assert choose_micro_batch(Forward(Passes(), PAIR), 1, LIMITS, 2.0) is None


def test_the_replicas_of_a_device_measure_once(measured: list[dict[str, Any]]) -> None:
    """The second takes over what the first has found."""
    one = setup(Passes(), warm_up_s=2.0)
    assert [piece_of(one), piece_of(one)] == [62, 62]
    assert measured == [{"most": 64, "seconds": 2.0}]


@pytest.mark.usefixtures("measured")
def test_only_passes_that_will_be_are_warmed() -> None:
    """Batches of more rows than a piece come in pieces."""
    module = Passes()
    setup(module).prepare()
    reference, lone, measurement, parity = [(1, 2)] * 3, [(1, 2)], [(64, 2)], [(3, 2)]
    assert module.shapes == reference + lone + measurement + [(1, 2), (2, 2), (4, 2), (8, 2), (16, 2)] + parity


def test_strict_measures_no_piece(measured: list[dict[str, Any]]) -> None:
    """Every row goes alone."""
    assert (piece_of(setup(Passes(), strict=True)), measured) == (None, [])


@pytest.mark.parametrize("counts", [[1], [1, 2]], ids=["given", "to be chosen"])
def test_one_of_the_counts_is_set(counts: list[int]) -> None:
    """A single one is not measured."""
    chosen = choose_threads(Forward(Passes(), PAIR), counts)
    assert chosen in counts
    assert torch.get_num_threads() == chosen


class Timed(Passes):
    """Its own clock: so many seconds a row."""

    def __init__(self, each_s: float) -> None:
        super().__init__()
        self.now, self._each_s = 0.0, each_s

    def forward(self, rows: Tensor) -> Tensor:
        self.now += len(rows) * self._each_s
        return super().forward(rows)


@pytest.mark.parametrize(
    ("each_s", "rows"),
    [
        pytest.param(1e-4, [1, 16], id="sixteen rows"),
        pytest.param(0.03, [1, 6], id="as many as are a fifth of a second"),
        pytest.param(1.0, [1], id="a slow backbone only its lone row"),
    ],
)
def test_threads_are_chosen_by_a_lone_row_and_a_batch(each_s: float, rows: list[int]) -> None:
    """A load does not wait for sixteen rows that take seconds each."""
    module = Timed(each_s)
    choose_threads(Forward(module, PAIR), [1, 2], clock=lambda: module.now)
    assert sorted({shape[0] for shape in module.shapes}) == rows


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("strict", "passes"), [(False, ", of at most 62 elements"), (True, "")], ids=["pieces", "whole"]
)
def test_the_log_says_how_a_backbone_is_computed(caplog: pytest.LogCaptureFixture, strict: bool, passes: str) -> None:
    """Once a load, of all its replicas."""
    caplog.set_level("INFO", "midrib.server")
    one = setup(Passes(), strict=strict)
    one.prepare()
    one.prepare()
    assert caplog.messages == [f"backbone test/embedding/one computes with 1 thread a pass{passes}"]


class Asleep(Passes):
    """So many seconds a row, of which nobody takes part in another's."""

    def __init__(self, each_s: float) -> None:
        super().__init__()
        self._each_s = each_s

    def forward(self, rows: Tensor) -> Tensor:
        time.sleep(len(rows) * self._each_s)
        return super().forward(rows)


@pytest.mark.usefixtures("measured")
def test_batches_are_computed_side_by_side_where_that_is_faster(caplog: pytest.LogCaptureFixture) -> None:
    """Every replica has a crew of its own."""
    caplog.set_level("INFO", "midrib.server")
    one = setup(Asleep(0.005), warm_up_s=2.0, threads=[1, 2])
    devices = [device_of(one), device_of(one)]
    assert [device.parallel_passes is not None and device.parallel_passes.width for device in devices] == [2, 2]
    assert devices[0].parallel_passes is not devices[1].parallel_passes
    assert "a pass, or 2 passes side by side, of at most 30 elements" in caplog.text


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    "kept",
    [
        pytest.param({"threads": [1]}, id="one thread"),
        pytest.param({"warm_up_s": 0.01}, id="no time to measure"),
        pytest.param({"strict": True}, id="row by row"),
    ],
)
def test_batches_are_otherwise_computed_one_after_the_other(kept: dict[str, Any]) -> None:
    """Where side by side is impossible, or unknown to be faster."""
    assert width_of(setup(Asleep(0.005), **{"warm_up_s": 2.0, "threads": [1, 2], **kept})) == 1


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("backend", "width"), [(None, 2), ("eager", 1)], ids=["as it is", "compiled"])
def test_what_is_compiled_is_computed_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, backend: str | None, width: int
) -> None:
    """It is so for one number of threads."""

    def two_at_a_time(_: Forward, device: CpuDevice, *__: object) -> int:
        device.parallel_passes = ParallelPasses(2, 1)
        return 2

    monkeypatch.setattr(device_setup, "choose_width", two_at_a_time)
    assert width_of(setup(nn.Linear(2, 2), threads=[1, 2], compile=backend)) == width


def test_a_short_batch_is_computed_in_one_pass() -> None:
    """Handing it over would take as long."""
    forward = Forward(Passes(), PAIR)
    assert isinstance(forward.device, CpuDevice)
    assert (choose_width(forward, forward.device, 2, 2.0), forward.device.parallel_passes) == (1, None)

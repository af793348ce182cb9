"""A plan that was measured on a busy machine is measured again, and replaced if the new one is clearly faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import Backbone
from midrib.registry import TensorInput
from midrib.server._calibration import again, plan
from midrib.server._calibration.other_load import OtherLoad
from midrib.server._calibration.parity import ParityError, parity_reference
from midrib.server._calibration.plan import ComputePlan
from midrib.server._catalogue.device_setup import DeviceSetup, WarmUpConfig
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.forward import Forward
from midrib.server._engine.batch_limits import BatchLimits

LIMITS = BatchLimits(max_rows=16, max_cost=1024, max_queue_items=10, max_queue_cost=1000)
SLOW = ComputePlan(threads=1)
WIDTH = 2
Comparisons = list[Sequence[ComputePlan]]


class Asleep(nn.Module):
    """Sleeps for a millisecond a row, so that two parallel passes take half of the time of one pass.

    error: added to every row, once it is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passes, self.error = 0, 0.0

    def forward(self, rows: Tensor) -> Tensor:
        self.passes += 1
        time.sleep(len(rows) * 1e-3)
        return rows + self.error


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1], ids=[""])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Comparisons:
    """The comparisons of the plan in use with a new one, of two passes; the index of the plan that is chosen."""
    comparisons: Comparisons = []
    index: int = request.param

    def compared(plans: Sequence[ComputePlan], work: Callable[[ComputePlan], object], **_: object) -> ComputePlan:
        comparisons.append(plans)
        for candidate in plans:
            work(candidate)
        return plans[index]

    def first(candidates: Sequence[int], work: Callable[[int], object], **_: object) -> int:
        for candidate in candidates:
            work(candidate)
        return candidates[0]

    monkeypatch.setattr(again, "fastest", compared)
    monkeypatch.setattr(plan, "fastest", first)
    monkeypatch.setattr(plan, "_SHORT_S", 0.0)  # the module takes no processor time
    return comparisons


@pytest.fixture()
def quiet(tmp_path: Path) -> OtherLoad:
    """No other process is known."""
    return OtherLoad(tmp_path / "absent")


def slow_setup(**config: Any) -> tuple[DeviceSetup, Forward, Asleep]:
    """Return a set-up whose plan is slow, as a busy machine's is, with a replica and the module."""
    module = Asleep().eval()
    backbone = Backbone("test/embedding/one", module, 2, TensorInput((2,)))
    warm_up_config = WarmUpConfig(LIMITS, 1.5, range(1, WIDTH + 1))
    setup = DeviceSetup(
        backbone, module, ComputeConfig(**config), parity_reference(backbone), warm_up_config, tf32=False
    )
    setup.plan = SLOW
    forward = setup.compute()
    setup.disturbed = True
    return setup, forward, module


def plan_of(forward: Forward) -> tuple[int, int, int | None]:
    """Return the threads, the width and the micro-batch by which a replica computes."""
    assert isinstance(forward.device, CpuDevice)
    pool = forward.device.parallel_passes
    return torch.get_num_threads(), 1 if pool is None else pool.width, forward.device.micro_batch_elements


def test_a_clearly_faster_plan_is_used(chosen: Comparisons, quiet: OtherLoad) -> None:
    """The rows stay the module's, and the plan is no longer said to be disturbed."""
    setup, forward, _ = slow_setup()
    assert setup.measure_again(forward, lambda: False, quiet)
    assert chosen == [(SLOW, ComputePlan(1, WIDTH))]
    assert (setup.plan, setup.disturbed, plan_of(forward)) == (ComputePlan(1, WIDTH), False, (1, WIDTH, None))
    (rows,) = forward([(np.ones((16, 2), np.float32),)])
    assert rows.tolist() == [[1.0, 1.0]] * 16


@pytest.mark.parametrize("chosen", [0], indirect=True, ids=["the plan in use"])
def test_a_plan_that_is_about_as_fast_stays(chosen: Comparisons, quiet: OtherLoad) -> None:
    """It was measured again, and is not measured a third time."""
    setup, forward, _ = slow_setup()
    assert setup.measure_again(forward, lambda: False, quiet)
    assert len(chosen) == 1
    assert (setup.plan, setup.disturbed, plan_of(forward)) == (SLOW, False, (1, 1, None))


@pytest.mark.parametrize("passes", [0, 1, 5, 20], ids="after {} passes".format)
@pytest.mark.usefixtures("chosen")
def test_a_batch_that_waits_ends_the_measurement_before_the_next_pass(quiet: OtherLoad, passes: int) -> None:
    """The replica uses its plan again, also after a pass by another plan."""
    setup, forward, module = slow_setup()
    before = module.passes
    answers = iter([False] * passes)
    assert not setup.measure_again(forward, lambda: next(answers, True), quiet)
    assert (setup.plan, setup.disturbed, plan_of(forward)) == (SLOW, True, (1, 1, None))
    assert module.passes - before <= WIDTH * passes * 16  # a pass of up to 16 rows may be cut into micro-batches
    assert next(answers, None) is None


@pytest.mark.usefixtures("chosen")
def test_a_measurement_that_other_processes_disturbed_changes_nothing(tmp_path: Path) -> None:
    """It says no more than the first one."""
    stat = tmp_path / "stat"
    stat.write_text("")
    busy = OtherLoad(stat, own_s=lambda: 0.0)
    stat.write_text("".join(f"cpu{index} 100000 0 0 0 0 0 0 0 0 0\n" for index in range(1024)))
    setup, forward, _ = slow_setup()
    assert not setup.measure_again(forward, lambda: False, busy)
    assert (setup.plan, setup.disturbed, plan_of(forward)) == (SLOW, True, (1, 1, None))


def test_a_plan_whose_rows_differ_is_not_used(chosen: Comparisons, quiet: OtherLoad) -> None:
    """The parity check is that of a load."""
    setup, forward, module = slow_setup()
    module.error = 1.0
    with pytest.raises(ParityError, match="differs from its own module"):
        setup.measure_again(forward, lambda: False, quiet)
    assert len(chosen) == 1
    assert (setup.plan, plan_of(forward)) == (SLOW, (1, 1, None))


@pytest.mark.parametrize(
    ("config", "warm_up_s"),
    [({"strict": True}, 0.2), ({"compile": "eager"}, 0.2), ({}, 0.0)],
    ids=["strict", "compiled", "without measurements"],
)
def test_a_plan_that_must_not_change_is_not_said_to_be_disturbed(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], warm_up_s: float
) -> None:
    """Bits in strict mode, threads of a compiled module, and what `warm_up_s = 0` pins."""
    monkeypatch.setattr(OtherLoad, "busy", lambda _self: True)
    assert not measured_setup(warm_up_s, [1], **config).disturbed


def test_a_plan_measured_on_a_busy_machine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of the plan, which `midrib serve`, `midrib status` and the metrics show, has the words."""
    monkeypatch.setattr(OtherLoad, "busy", lambda _self: True)
    measured = measured_setup(0.01, [1]).worker_plan
    assert measured is not None
    assert (measured.disturbed, measured.text) == (True, "1 thread a pass, measured on a busy machine")


def measured_setup(warm_up_s: float, threads: Sequence[int], **config: Any) -> DeviceSetup:
    """Return a set-up whose first replica has measured its plan."""
    module = nn.Identity().eval()
    backbone = Backbone("test/embedding/one", module, 2, TensorInput((2,)))
    setup = DeviceSetup(
        backbone,
        module,
        ComputeConfig(**config),
        parity_reference(backbone),
        WarmUpConfig(LIMITS, warm_up_s, threads),
        tf32=False,
    )
    setup.compute()
    return setup

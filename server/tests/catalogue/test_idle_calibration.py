"""Plans that were measured on a busy machine are measured again, but only while nothing else is done."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.server._calibration.other_load import OtherLoad
from midrib.server._catalogue.device_setup import DeviceSetup
from midrib.server._catalogue.idle_calibration import IdleCalibration
from midrib.server._catalogue.loading import Loaded, load
from midrib.server._engine.item import Item
from midrib.server._intake.media import MediaPool
from midrib.server._settings import BackboneSettings, Settings

SETTINGS = Settings(warm_up_s=0.0, threads=1, workers="thread", device="cpu")
IDLE_S = 0.05
REGISTRY = Registry("idle")


@REGISTRY(name="same", namespace="test/embedding", input=TensorInput((2,)))
def load_same() -> tuple[nn.Module, int]:
    return nn.Identity(), 2


class Failing(nn.Module):
    """Fails from its first call on that follows `fails = True`."""

    fails = False

    def forward(self, rows: Tensor) -> Tensor:
        if Failing.fails:
            raise RuntimeError("the device is gone")
        return rows


@REGISTRY(name="failing", namespace="test/embedding", input=TensorInput((2,)))
def load_failing() -> tuple[nn.Module, int]:
    return Failing(), 2


@asynccontextmanager
async def disturbed(replicas: int = 1, name: str = "same") -> AsyncIterator[Loaded]:
    """A backbone that serves by a plan that was measured on a busy machine."""
    pool = MediaPool(SETTINGS)
    loaded = load(BackboneSettings(name=name, replicas=replicas), SETTINGS, REGISTRY, pool)
    await loaded.served.start()
    (setup,) = loaded.plans
    assert isinstance(setup, DeviceSetup)
    setup.disturbed = True
    yield loaded
    await loaded.served.drain()
    pool.close()


@pytest.fixture()
def quiet(tmp_path: Path) -> Callable[[], OtherLoad]:
    """No other process is known."""
    return lambda: OtherLoad(tmp_path / "absent")


def while_disturbed(loaded: Loaded, serving: list[Loaded]) -> list[Loaded]:
    """Return the backbones that serve while one of them is disturbed; then none."""
    return serving if is_disturbed(loaded) else []


def is_disturbed(loaded: Loaded) -> bool:
    return loaded.plan is not None and loaded.plan.disturbed


async def ask(loaded: Loaded) -> None:
    """Have an item of one row computed."""
    item = Item((np.ones((1, 2), np.float32),), bucket="a", cost=2)
    loaded.served.batcher.submit(item)
    await item.done


async def test_the_wait_for_an_idle_machine_keeps_no_backbone(quiet: Callable[[], OtherLoad]) -> None:
    """A backbone that is unloaded meanwhile frees its weights at once, not when the wait ends."""
    pool = MediaPool(SETTINGS)
    serving = [load(BackboneSettings(name="same"), SETTINGS, REGISTRY, pool)]
    await serving[0].served.start()
    (setup,) = serving[0].plans
    assert isinstance(setup, DeviceSetup)
    setup.disturbed = True
    unloaded = weakref.ref(serving[0])
    running = asyncio.create_task(IdleCalibration(lambda: serving, lambda: False, 3600.0, other_load=quiet).run())
    await asyncio.sleep(0)
    await serving[0].served.drain()
    serving.clear()
    assert not running.done()
    assert unloaded() is None
    running.cancel()
    pool.close()


@pytest.mark.parametrize("replicas", [1, 2])
async def test_an_idle_backbone_is_measured_again(
    quiet: Callable[[], OtherLoad], caplog: pytest.LogCaptureFixture, replicas: int
) -> None:
    """Once; the log says so in one line."""
    caplog.set_level("INFO", "midrib.server._catalogue.idle_calibration")
    async with disturbed(replicas) as loaded:
        calibration = IdleCalibration(lambda: [loaded], lambda: False, IDLE_S, other_load=quiet)
        await asyncio.wait_for(calibration.run(), 30)
        assert not is_disturbed(loaded)
    assert caplog.messages == [
        "backbone test/embedding/same was measured again on the idle machine and computes with 1 thread a pass "
        "(as before)"
    ]


async def test_while_items_arrive_nothing_is_measured(quiet: Callable[[], OtherLoad]) -> None:
    """Of this backbone or of another one; the time without items starts again with each."""
    async with disturbed() as loaded, disturbed() as other:
        calibration = IdleCalibration(lambda: [loaded, other], lambda: False, IDLE_S, other_load=quiet)
        running = asyncio.create_task(calibration.run())
        for _ in range(200):
            await ask(other)
        assert is_disturbed(loaded)
        await asyncio.wait_for(running, 30)
        assert not is_disturbed(loaded)


async def test_while_a_backbone_is_loaded_nothing_is_measured(quiet: Callable[[], OtherLoad]) -> None:
    """The load measures too, and two measurements would disturb each other."""
    looks = iter([True] * 20)
    async with disturbed() as loaded:
        calibration = IdleCalibration(lambda: [loaded], lambda: next(looks, False), IDLE_S, other_load=quiet)
        await asyncio.wait_for(calibration.run(), 30)
        assert next(looks, None) is None


async def test_while_other_processes_compute_nothing_is_measured(tmp_path: Path) -> None:
    """The measurement would be disturbed again."""
    stat = tmp_path / "stat"
    stat.write_text("")
    looks = []

    def busy_three_times() -> OtherLoad:
        other_load = OtherLoad(stat, own_s=lambda: 0.0)
        looks.append(other_load)
        used = 1_000_000 * len(looks) if len(looks) <= 3 else 3_000_000
        stat.write_text("".join(f"cpu{index} {used} 0 0 0 0 0 0 0 0 0\n" for index in range(1024)))
        return other_load

    async with disturbed() as loaded:
        calibration = IdleCalibration(lambda: [loaded], lambda: False, IDLE_S, other_load=busy_three_times)
        await asyncio.wait_for(calibration.run(), 30)
    assert len(looks) >= 4


async def test_an_unloaded_backbone_is_not_measured(quiet: Callable[[], OtherLoad]) -> None:
    """The task ends with the last backbone."""
    serving: list[Loaded] = []
    async with disturbed() as loaded:
        serving.append(loaded)
        running = asyncio.create_task(IdleCalibration(lambda: serving, lambda: False, IDLE_S, other_load=quiet).run())
        await ask(loaded)
        serving.clear()
        await asyncio.wait_for(running, 30)
        assert is_disturbed(loaded)


async def test_with_zero_seconds_nothing_is_measured_again() -> None:
    """The setting pins the plan of the load."""
    async with disturbed() as loaded:
        calibration = IdleCalibration(lambda: [loaded], lambda: False, 0.0)
        calibration.start()
        assert len(asyncio.all_tasks()) == 1 + len(loaded.served._feeders)
        assert is_disturbed(loaded)


async def test_a_backbone_that_cannot_be_measured_delays_the_next_one_only_once(
    quiet: Callable[[], OtherLoad], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is tried in its order."""
    async with disturbed(name="failing") as failing, disturbed() as other:
        monkeypatch.setattr(Failing, "fails", True)
        serving = partial(while_disturbed, other, [failing, other])
        await asyncio.wait_for(IdleCalibration(serving, lambda: False, IDLE_S, other_load=quiet).run(), 30)
        assert is_disturbed(failing)
        assert not is_disturbed(other)

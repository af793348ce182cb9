"""A compute plan is changed or measured between batches: the same tests for both kinds of replicas."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server._catalogue.processes import host_in_processes
from midrib.server._engine.compute import BatchReport, BatchRunner, WorkerPlan
from midrib.server._settings import BackboneSettings, Settings
from midrib.server._worker.messages import decode_plan
from midrib.wire import Array
from server.tests.worker.replicas import build_replica

Build = Callable[[str], BatchRunner]
SETTINGS = Settings(warm_up_s=0.2, threads=2, device="cpu", max_batch_rows=16)
PLAN = WorkerPlan({"threads": 1, "width": 2, "micro_batch_elements": 4}, "a plan")


@pytest.fixture(params=["thread", "process"])
def build(request: pytest.FixtureRequest, misbehaving: Registry) -> Build:
    """Return a replica of one kind of a backbone, which is to be started."""
    return lambda name: build_replica(request.param, BackboneSettings(name=name), SETTINGS, misbehaving)


def batch(rows: int) -> list[tuple[Array]]:
    return [(np.arange(2 * rows, dtype=np.float32).reshape(rows, 2),)]


def is_doubled(report: BatchReport, rows: int) -> bool:
    (result,) = report.results
    return isinstance(result, np.ndarray) and bool(np.array_equal(result, 2 * batch(rows)[0][0]))


async def end(replica: BatchRunner) -> None:
    replica.close()
    await asyncio.wait_for(replica.join(), 30)


async def test_a_replica_uses_a_plan_from_then_on(build: Build) -> None:
    """Batches before, beside and after the change get their rows."""
    replica = build("slow")
    await replica.start()
    before = replica.submit(batch(3))
    change = replica.change_plan(PLAN)
    after = replica.submit(batch(9))
    assert is_doubled(await before, 3)
    assert await change == PLAN
    assert is_doubled(await after, 9)
    await end(replica)


async def test_a_batch_ends_a_measurement(build: Build) -> None:
    """It waits for one pass, and the plan stays."""
    replica = build("slow")
    await replica.start()
    measuring = replica.change_plan(None)
    report = await replica.submit(batch(3))
    assert is_doubled(report, 3)
    assert await asyncio.wait_for(measuring, 30) is None
    await end(replica)


async def test_a_measurement_can_be_stopped(build: Build) -> None:
    """For an item of another backbone; a stop without a measurement has no effect."""
    replica = build("slow")
    await replica.start()
    replica.stop_measuring()
    measuring = replica.change_plan(None)
    replica.stop_measuring()
    assert await asyncio.wait_for(measuring, 30) is None
    assert is_doubled(await replica.submit(batch(2)), 2)
    await end(replica)


async def test_closing_ends_a_measurement(build: Build) -> None:
    """An unload does not wait for it."""
    replica = build("slow")
    await replica.start()
    measuring = replica.change_plan(None)
    await end(replica)
    assert await asyncio.wait_for(measuring, 30) is None


async def test_repeated_stops_do_not_fill_the_socket(misbehaving: Registry) -> None:
    """A worker reads no message during a pass, which may take long. A batch would not fit behind hundreds of stops."""
    workers = host_in_processes(BackboneSettings(name="slow"), SETTINGS, misbehaving).workers[0]
    replica = workers.replica("test")
    await replica.start()
    assert workers.supervisor is not None
    pid = workers.supervisor.state().pid
    os.kill(pid, signal.SIGSTOP)
    measuring = replica.change_plan(None)
    for _ in range(1000):
        replica.stop_measuring()
    submitted = replica.submit(batch(2))
    os.kill(pid, signal.SIGCONT)
    assert is_doubled(await submitted, 2)
    assert await asyncio.wait_for(measuring, 30) is None
    assert workers.supervisor.state().pid == pid
    await end(replica)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"fields": 1, "text": "", "disturbed": false}', b"[" * 100_000])
def test_a_damaged_plan_is_refused(content: bytes) -> None:
    """The server ends the worker that has sent it; any other error would leave the worker's later replies unread."""
    with pytest.raises(ValueError, match=f"{len(content)} bytes are not a compute plan"):
        decode_plan(content)

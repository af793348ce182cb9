"""The contract of `BatchRunner`: the same tests for a replica in a thread and for one in a worker process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server._engine.compute import Arrays, BatchReport, BatchRunner
from midrib.server._settings import BackboneSettings, Settings
from midrib.wire import UnavailableError
from server.tests.worker.replicas import build_replica

Build = Callable[[str, str], BatchRunner]
SETTINGS = Settings(warm_up_s=0.0, threads=1)
TRIGGER = 666.0


@pytest.fixture(params=["thread", "process"])
def build(request: pytest.FixtureRequest, misbehaving: Registry) -> Build:
    """Return a replica of one kind, which is to be started. Its arguments: a backbone and its fault."""

    def built(name: str, fault: str) -> BatchRunner:
        requested = BackboneSettings(name=name, arguments={"fault": fault} if fault else {})
        return build_replica(request.param, requested, SETTINGS, misbehaving)

    return built


def rows(value: float, count: int = 1) -> Arrays:
    return (np.full((count, 2), value, np.float32),)


def shown(report: BatchReport) -> list[object]:
    return [result.tolist() if isinstance(result, np.ndarray) else "error" for result in report.results]


async def end(replica: BatchRunner) -> None:
    replica.close()
    await asyncio.wait_for(replica.join(), 20)


async def test_each_item_gets_its_rows_in_the_order_of_the_batch(build: Build) -> None:
    """Items of different numbers of rows share a pass, and the report says when it ran."""
    replica = build("doubling", "fails")
    await replica.start()
    report = await replica.submit([rows(1), rows(2, 2), rows(3)])
    await end(replica)
    assert shown(report) == [[[2, 2]], [[4, 4], [4, 4]], [[6, 6]]]
    assert 0 < report.started <= report.finished


@pytest.mark.parametrize("fault", ["fails", "quits", "raises-base", "stops-iteration"])
async def test_an_item_that_fails_does_not_fail_the_others(build: Build, fault: str) -> None:
    """The module raises for one item of five: any error, also one that would end a thread."""
    replica = build("doubling", fault)
    await replica.start()
    report = await replica.submit([rows(value) for value in (1, 2, TRIGGER, 4, 5)])
    await end(replica)
    assert shown(report) == [[[2, 2]], [[4, 4]], "error", [[8, 8]], [[10, 10]]]


async def test_a_gradient_has_the_shape_of_its_input(build: Build) -> None:
    """An item of two arrays is an input with the gradient of its embedding: that of a doubled row is doubled."""
    replica = build("doubling", "fails")
    await replica.start()
    report = await replica.submit([(rows(1, 3)[0], rows(5, 3)[0])])
    await end(replica)
    assert shown(report) == [[[10, 10]] * 3]


async def test_closing_computes_the_batches_that_were_submitted(build: Build) -> None:
    """They are reported before the replica has ended."""
    replica = build("slow", "")
    await replica.start()
    submitted = [replica.submit([rows(value)]) for value in range(replica.depth)]
    await end(replica)
    assert [shown(await report) for report in submitted] == [[[[2 * v, 2 * v]]] for v in range(replica.depth)]


async def test_abandoned_batches_fail_with_the_error(build: Build) -> None:
    """Their callers may try again elsewhere; so may those of later batches."""
    replica = build("slow", "")
    await replica.start()
    running = replica.submit([rows(1, 200)])
    replica.abandon(UnavailableError("the replica was given up"))
    with pytest.raises(UnavailableError, match="given up"):
        await running
    with pytest.raises(UnavailableError, match="given up|try again"):
        await replica.submit([rows(1)])
    await end(replica)

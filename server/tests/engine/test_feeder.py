"""The batches that a replica gets, and the time at which it gets them; no device, no thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.batcher import Batcher
from midrib.server._engine.compute import Arrays, BatchReport
from midrib.server._engine.feeder import Feeder
from midrib.server._engine.item import Item
from midrib.server._engine.replica import Replica
from midrib.wire import UnavailableError

PAIRS = BatchLimits(max_rows=2, max_cost=10_000, max_queue_items=100, max_queue_cost=100_000)


class FakeReplica:
    """Records its batches, which are done when the test says so."""

    depth = 2

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.running: list[asyncio.Future[BatchReport]] = []
        self.given = asyncio.Event()

    def submit(self, batch: Sequence[Arrays]) -> asyncio.Future[BatchReport]:
        self.batches.append([float(arrays[0][0, 0]) for arrays in batch])
        self.running.append(asyncio.get_running_loop().create_future())
        self.given.set()
        return self.running[-1]

    def finish(self, index: int, *, compute_s: float = 0.0) -> None:
        self.running[index].set_result(BatchReport([], 0.0, 0.0, compute_s))

    async def until_given(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.batches) < count:
                self.given.clear()
                await self.given.wait()


class Fed:
    """A queue, a fake replica, and the feeder between them."""

    def __init__(self) -> None:
        self.batcher = Batcher(PAIRS)
        self.replica = FakeReplica()
        self.done: list[list[Item]] = []
        feeder = Feeder(
            self.batcher, cast("Replica", self.replica), on_done=lambda batch, _: self.done.append(list(batch))
        )
        self.feeding = asyncio.create_task(feeder.run())

    def arrive(self, *values: float) -> None:
        for value in values:
            self.batcher.submit(Item((np.full((1, 1), value),), bucket="a", cost=1))


@pytest.fixture()
async def fed() -> Fed:
    return Fed()


async def settle() -> None:
    """Let everything run that is ready."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_behind_a_running_batch_a_full_one_is_handed_over(fed: Fed) -> None:
    """It is staged meanwhile, and waiting could not make it larger."""
    fed.arrive(1, 2)
    await fed.replica.until_given(1)
    await settle()
    fed.arrive(3, 4)
    await fed.replica.until_given(2)
    assert fed.replica.batches == [[1, 2], [3, 4]]
    assert not any(done.done() for done in fed.replica.running)


async def test_the_device_never_holds_more_than_its_depth(fed: Fed) -> None:
    """One computes and one is staged; the other items stay in the queue, where their order can still change."""
    fed.arrive(1, 2, 3, 4, 5, 6)
    await fed.replica.until_given(2)
    await settle()
    assert (fed.replica.batches, fed.batcher.queued_items) == ([[1, 2], [3, 4]], 2)


async def test_behind_a_short_batch_a_lone_item_waits_for_others(fed: Fed) -> None:
    """It would not be computed earlier, and alone."""
    fed.arrive(1, 2)
    await fed.replica.until_given(1)
    fed.arrive(3)
    await settle()
    fed.arrive(4)
    fed.replica.finish(0)
    await fed.replica.until_given(2)
    assert fed.replica.batches == [[1, 2], [3, 4]]


async def test_the_next_batch_is_handed_over_shortly_before_the_end_of_a_long_one(fed: Fed) -> None:
    """The first took 3 ms, so the third is handed over 2 ms before the predicted end of the second."""
    fed.arrive(1)
    await fed.replica.until_given(1)
    fed.replica.finish(0, compute_s=0.003)
    await settle()
    fed.arrive(2)
    await fed.replica.until_given(2)
    fed.arrive(3)
    await fed.replica.until_given(3)
    assert fed.replica.batches == [[1], [2], [3]]


async def test_a_closed_queue_is_drained(fed: Fed) -> None:
    """Queued items are handed over, and running batches are waited for."""
    fed.arrive(1, 2)
    await fed.replica.until_given(1)
    fed.arrive(3)
    fed.batcher.close()
    fed.replica.finish(0)
    await fed.replica.until_given(2)
    assert not fed.feeding.done()
    fed.replica.finish(1)
    await fed.feeding
    assert [[float(item.arrays[0][0, 0]) for item in batch] for batch in fed.done] == [[1, 2], [3]]


async def test_a_lost_replica_ends_the_feeding(fed: Fed) -> None:
    """Its batch is reported too."""
    fed.arrive(1)
    await fed.replica.until_given(1)
    fed.replica.running[0].set_exception(UnavailableError("lost"))
    with pytest.raises(UnavailableError, match="lost"):
        await fed.feeding
    assert len(fed.done) == 1

"""A replica's thread: order, poison, loss."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from midrib.server._replica import Arrays, Compute, Replica
from midrib.wire import Array, UnavailableError


def doubling(batch: Sequence[Arrays]) -> list[Array]:
    if any((arrays[0] < 0).any() for arrays in batch):
        raise ValueError("negative")
    return [arrays[0] * 2 for arrays in batch]


def rows(*values: int) -> Arrays:
    return (np.array(values),)


async def started(compute: Compute) -> Replica:
    replica = Replica(lambda: compute, name="test")
    await replica.start()
    return replica


async def test_every_item_gets_its_own_rows() -> None:
    """One result an item, in the batch's order."""
    replica = await started(doubling)
    report = await replica.run([rows(1, 2), rows(3)])
    replica.close()
    assert [list(result) for result in report.results if isinstance(result, np.ndarray)] == [[2, 4], [6]]
    assert report.started <= report.finished


async def test_a_poison_item_spoils_only_itself() -> None:
    """Its neighbours in the batch get their rows."""
    replica = await started(doubling)
    report = await replica.run([rows(1), rows(-1), rows(3), rows(4)])
    replica.close()
    assert [str(result) for result in report.results] == ["[2]", "negative", "[6]", "[8]"]


async def test_what_preparing_raises_is_raised_by_start() -> None:
    """A backbone that cannot be built is known before it serves."""

    def broken() -> Compute:
        raise MemoryError("no room for the weights")

    with pytest.raises(MemoryError, match="no room for the weights"):
        await Replica(broken, name="test").start()


async def test_a_lost_thread_fails_its_items_as_retriable() -> None:
    """Both the batch that it ran and those behind it: the same call may be made again."""
    running, go_on = threading.Event(), threading.Event()

    def dying(batch: Sequence[Arrays]) -> list[Array]:
        running.set()
        go_on.wait(10)
        raise SystemExit

    replica = await started(dying)
    runs = [asyncio.create_task(replica.run([rows(1)])) for _ in range(2)]
    await asyncio.to_thread(running.wait, 10)
    go_on.set()
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [UnavailableError, UnavailableError]
    with pytest.raises(UnavailableError, match="the replica that ran this item was lost"):
        await replica.run([rows(1)])

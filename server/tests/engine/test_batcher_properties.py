"""The batcher under any sequence of actions: no item is lost, doubled or overtaken by a later one of its flow."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.batcher import Batcher
from midrib.server._engine.item import Item, Outcome
from midrib.wire import OverloadedError

LIMITS = BatchLimits(max_rows=6, max_cost=40, max_queue_items=8, max_queue_cost=100)
# Each row has the number of its item, times this, plus its place in the item.
NUMBERED = 100

actions = st.lists(
    st.tuples(
        st.sampled_from(["submit", "put", "cancel", "take"]),
        st.sampled_from("ab"),
        st.integers(1, 15),
        st.sampled_from("xyz"),
    ),
    max_size=60,
)


@given(actions)
def test_no_row_is_lost_doubled_or_overtaken(script: list[tuple[str, str, int, str]]) -> None:
    """Every item ends, no row leaves twice, and the items of a flow that fit a batch keep their order."""
    asyncio.run(_play(script))


async def _play(script: list[tuple[str, str, int, str]]) -> None:
    batcher = Batcher(LIMITS)
    accepted: list[tuple[Item, list[int]]] = []
    parts: list[Item] = []
    putting: list[asyncio.Task[None]] = []
    for number, (action, bucket, size, flow) in enumerate(script):
        rows = NUMBERED * number + np.arange(size)
        new = Item((rows,), bucket, 4 * size, flow=flow)
        if action == "submit":
            try:
                batcher.submit(new)
                accepted.append((new, rows.tolist()))
            except OverloadedError:
                continue
        elif action == "put":
            putting.append(asyncio.create_task(batcher.put(new)))
            accepted.append((new, rows.tolist()))
        elif action == "cancel" and accepted:
            accepted[size % len(accepted)][0].done.cancel()
        elif action == "take" and batcher.queued_items:
            parts += await _take(batcher)
        await asyncio.sleep(0)
    while batcher.queued_items or not all(task.done() for task in putting):
        parts += await _take(batcher)
    for each in parts:
        if not each.done.done():
            each.done.set_result(Outcome(each.arrays[0], 0.0, 0.0))
    await asyncio.sleep(0)
    _check(accepted, parts)
    assert (batcher.queued_items, batcher.queued_cost, batcher.queue.rows) == (0, 0, 0)


def _check(accepted: list[tuple[Item, list[int]]], parts: list[Item]) -> None:
    assert all(each.done.done() for each, _ in accepted)
    answered = [(each.done.result().rows.tolist(), rows) for each, rows in accepted if not each.done.cancelled()]
    assert all(received == rows for received, rows in answered)
    rows = [row for each in parts for row in each.arrays[0].tolist()]
    assert len(rows) == len(set(rows))
    uncut = {id(each): rows[0] for each, rows in accepted if len(rows) <= LIMITS.max_rows}
    for queue in {(each.bucket, each.flow) for each in parts}:
        order = [uncut[id(each)] for each in parts if (each.bucket, each.flow) == queue and id(each) in uncut]
        assert order == sorted(order)


async def _take(batcher: Batcher) -> list[Item]:
    try:
        batch = await asyncio.wait_for(batcher.take(), 0.05)
    except TimeoutError:  # all that waited had been cancelled
        return []
    assert len({each.bucket for each in batch}) == 1
    assert sum(each.rows for each in batch) <= LIMITS.max_rows
    assert sum(each.cost for each in batch) <= LIMITS.max_cost
    return batch

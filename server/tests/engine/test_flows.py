"""The share of the queue that each flow may fill, and items that leave it without being computed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import numpy as np

from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.batcher import Batcher
from midrib.server._engine.item import Item, Priority
from midrib.wire import DeadlineExceededError, OverloadedError, UnavailableError


def item(
    *, cost: int = 1, flow: object = None, deadline: float | None = None, priority: Priority = Priority.BULK
) -> Item:
    return Item((np.zeros((1, 1)),), "a", cost, flow=flow, deadline=deadline, priority=priority)


def crowded(flow: str, count: int) -> Batcher:
    """A batcher whose queue a flow fills as far as it may; the rest of its items are refused."""
    batcher = Batcher(BatchLimits(max_rows=4, max_cost=100, max_queue_items=64, max_queue_cost=1000))
    with suppress(OverloadedError):
        for _ in range(count):
            batcher.submit(item(flow=flow))
    return batcher


async def test_a_flow_that_fills_the_queue_leaves_room_for_others() -> None:
    """No client can shut out another."""
    batcher = crowded("bulk", 100)
    for flow in ("interactive", "another"):
        batcher.submit(item(flow=flow))
    assert (batcher.counts.accepted, batcher.counts.rejected) == (66, 1)


async def test_waiting_items_of_one_flow_do_not_refuse_another() -> None:
    """Streams wait for room; a unary call of another client is queued."""
    batcher = crowded("bulk", 100)
    putting = [asyncio.create_task(batcher.put(item(flow="bulk"))) for _ in range(10)]
    await asyncio.sleep(0)
    interactive = item(flow="interactive", priority=Priority.INTERACTIVE)
    batcher.submit(interactive)
    assert interactive in await batcher.take()
    batcher.close(UnavailableError("stopped"))
    await asyncio.gather(*putting)


async def test_the_first_large_item_of_a_flow_is_queued_beside_many_small_ones() -> None:
    """Otherwise it would wait for room that the small items of others always take first."""
    batcher = Batcher(BatchLimits(max_rows=4, max_cost=100, max_queue_items=64, max_queue_cost=400))
    with suppress(OverloadedError):
        for _ in range(64):
            batcher.submit(item(flow="small", cost=20))
    large = item(flow="large", cost=100)
    batcher.submit(large)
    assert large.queued


async def test_an_item_whose_caller_leaves_gives_its_room_to_the_next_at_once() -> None:
    """The next item is queued even while no device takes a batch."""
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=10, max_queue_items=1, max_queue_cost=100))
    gone, staying = item(), item()
    batcher.submit(gone)
    waiting = asyncio.create_task(batcher.put(staying))
    await asyncio.sleep(0)
    gone.done.cancel()
    await waiting
    assert (batcher.queued_items, gone.arrays, batcher.counts.cancelled) == (1, (), 1)


async def test_expired_items_do_not_refuse_others() -> None:
    """They count neither in the queue nor in the share of their flow."""
    now = [100.0]
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=10, max_queue_items=2, max_queue_cost=100), clock=lambda: now[0])
    late = [item(deadline=101.0), item(deadline=101.0)]
    for each in late:
        batcher.submit(each)
    now[0] = 102.0
    batcher.submit(item())
    assert (batcher.queued_items, batcher.counts.expired) == (1, 2)
    assert [type(each.done.exception()) for each in late] == [DeadlineExceededError] * 2


async def test_flows_that_have_ended_are_forgotten_while_the_queue_never_empties() -> None:
    """Each stream is a flow, and a busy server sees millions."""
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=10_000, max_queue_items=1000, max_queue_cost=10_000))
    batcher.submit(item(flow="steady"))
    for stream in range(5000):
        batcher.submit(item(flow=stream))
        await batcher.take()
    assert (batcher.queued_items, len(batcher.queue.flows) < 600) == (1, True)


async def test_items_that_leave_in_thousands_leave_no_entries_behind() -> None:
    """The entries go even while the device hangs."""
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=10, max_queue_items=10, max_queue_cost=1000))
    batcher.submit(item())
    for _ in range(2000):
        gone = item()
        batcher.submit(gone)
        gone.done.cancel()
        await asyncio.sleep(0)
    assert sum(len(heap) for heap in batcher.queue._buckets.values()) < 100


async def test_no_delay_is_added_when_max_delay_is_zero() -> None:
    """Items that arrive in the same turn of the loop still share a batch."""
    limits = BatchLimits(max_rows=8, max_cost=100, max_queue_items=100, max_queue_cost=1000, max_delay_s=0.0)
    batcher = Batcher(limits)
    sizes = []
    for _ in range(2):
        for _ in range(3):
            batcher.submit(item())
        loop = asyncio.get_running_loop()
        slept = loop.create_future()
        timer = loop.call_later(0.001, slept.set_result, None)
        sizes.append((len(await batcher.take()), slept.done()))
        timer.cancel()
    assert sizes == [(3, False), (3, False)]

"""The batcher without a device, a network or a real clock."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Hashable

import numpy as np
import pytest

from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.batcher import Batcher
from midrib.server._engine.item import Item, Priority
from midrib.wire import DeadlineExceededError, OverloadedError, UnavailableError

ROOMY = BatchLimits(max_rows=64, max_cost=10_000, max_queue_items=1000, max_queue_cost=1_000_000)


def item(
    rows: int = 1,
    *,
    bucket: Hashable = "a",
    cost: int = 1,
    flow: Hashable = None,
    deadline: float | None = None,
    priority: Priority = Priority.INTERACTIVE,
) -> Item:
    return Item((np.zeros((rows, 1)),), bucket, cost, flow=flow, deadline=deadline, priority=priority)


def test_it_knows_no_torch_and_no_grpc() -> None:
    """The engine depends neither on the device nor on the protocol."""
    code = "import sys, midrib.server._engine.batcher; print({'torch', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


async def test_a_lone_item_leaves_at_once() -> None:
    """It does not wait for other items."""
    batcher = Batcher(ROOMY)
    only = item()
    batcher.submit(only)
    assert await batcher.take() == [only]


async def test_take_waits_for_the_first_item() -> None:
    """A device that is free gets the next item."""
    batcher = Batcher(ROOMY)
    taking = asyncio.create_task(batcher.take())
    await asyncio.sleep(0)
    first = item()
    batcher.submit(first)
    assert await taking == [first]


async def test_queued_items_leave_as_one_batch_in_order() -> None:
    """Batches are therefore larger under load."""
    batcher = Batcher(ROOMY)
    items = [item() for _ in range(5)]
    for each in items:
        batcher.submit(each)
    assert await batcher.take() == items


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        pytest.param(BatchLimits(4, 10_000, 100, 10_000), [2, 1], id="rows"),
        pytest.param(BatchLimits(64, 20, 100, 10_000), [2, 1], id="cost"),
    ],
)
async def test_a_batch_keeps_its_limits(limits: BatchLimits, sizes: list[int]) -> None:
    """It keeps the limits on rows and on cost."""
    batcher = Batcher(limits)
    for _ in range(3):
        batcher.submit(item(rows=2, cost=10))
    assert [len(await batcher.take()), len(await batcher.take())] == sizes


async def test_a_row_over_the_limit_leaves_alone() -> None:
    """It was accepted, so it is computed."""
    batcher = Batcher(BatchLimits(max_rows=4, max_cost=10, max_queue_items=10, max_queue_cost=100))
    large, small = item(cost=90), item()
    batcher.submit(large)
    batcher.submit(small)
    assert [await batcher.take(), await batcher.take()] == [[large], [small]]


async def test_buckets_never_share_a_batch() -> None:
    """Only equal shapes can be stacked; the older bucket goes first."""
    batcher = Batcher(ROOMY)
    first, other, second = item(bucket="a"), item(bucket="b"), item(bucket="a")
    for each in (first, other, second):
        batcher.submit(each)
    assert [await batcher.take(), await batcher.take()] == [[first, second], [other]]


async def test_a_crowding_flow_does_not_delay_anothers_first_item() -> None:
    """The hundred items of one client are queued behind the first of another."""
    batcher = Batcher(BatchLimits(max_rows=2, max_cost=10_000, max_queue_items=1000, max_queue_cost=10_000))
    for _ in range(100):
        batcher.submit(item(flow="crowd"))
    await batcher.take()
    lone = item(flow="lone")
    batcher.submit(lone)
    assert lone in await batcher.take()


async def test_a_priority_is_a_share_not_a_privilege() -> None:
    """Interactive items get sixteen times the share of bulk items, which still leave."""
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=10_000, max_queue_items=1000, max_queue_cost=10_000))
    for _ in range(40):
        batcher.submit(item(flow="bulk", cost=16, priority=Priority.BULK))
        batcher.submit(item(flow="interactive", cost=16, priority=Priority.INTERACTIVE))
    flows = [(await batcher.take())[0].flow for _ in range(35)]
    assert (flows.count("interactive"), flows.count("bulk")) == (32, 3)


async def test_a_full_queue_refuses_at_once() -> None:
    """The error says how full the queue is, and when to try again."""
    batcher = Batcher(BatchLimits(max_rows=4, max_cost=10, max_queue_items=2, max_queue_cost=100))
    batcher.submit(item())
    batcher.submit(item())
    with pytest.raises(OverloadedError, match="2 items waiting, limit 2") as caught:
        batcher.submit(item())
    assert (caught.value.retry_after, batcher.counts.rejected) == (0.1, 1)


async def test_waiting_items_are_queued_in_order() -> None:
    """An item whose caller cannot wait is refused meanwhile."""
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=10, max_queue_items=1, max_queue_cost=100))
    first, second, third = item(), item(), item()
    batcher.submit(first)
    waiting = [asyncio.create_task(batcher.put(each)) for each in (second, third)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="1 items waiting"):
        batcher.submit(item())
    assert [await batcher.take() for _ in range(3)] == [[first], [second], [third]]
    await asyncio.gather(*waiting)


async def test_a_waiting_caller_who_leaves_does_not_delay_others() -> None:
    """The next one in the line is queued."""
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=10, max_queue_items=1, max_queue_cost=100))
    batcher.submit(item())
    leaving = asyncio.create_task(batcher.put(item()))
    await asyncio.sleep(0)
    staying = item()
    waiting = asyncio.create_task(batcher.put(staying))
    await asyncio.sleep(0)
    leaving.cancel()
    await batcher.take()
    assert await batcher.take() == [staying]
    await waiting


async def test_a_cancelled_item_never_reaches_a_device() -> None:
    """It is counted as cancelled."""
    batcher = Batcher(ROOMY)
    gone, here = item(), item()
    batcher.submit(gone)
    batcher.submit(here)
    gone.done.cancel()
    assert await batcher.take() == [here]
    assert batcher.counts.cancelled == 1


async def test_an_expired_item_never_reaches_a_device() -> None:
    """Its caller gets an error that says so."""
    now = 100.0
    batcher = Batcher(ROOMY, clock=lambda: now)
    late, here = item(deadline=99.0), item(deadline=101.0)
    batcher.submit(late)
    batcher.submit(here)
    assert await batcher.take() == [here]
    with pytest.raises(DeadlineExceededError, match="waited for a device"):
        await late.done
    assert batcher.counts.expired == 1


async def test_an_item_whose_deadline_is_before_the_next_worker_is_refused() -> None:
    """Its caller can try another server at once; items that can wait are queued."""
    batcher = Batcher(ROOMY, clock=lambda: 100.0)
    batcher.starts_at = lambda: 101.5
    with pytest.raises(UnavailableError, match=r"the next one starts in 1\.5 s, after the call's deadline") as caught:
        batcher.submit(item(deadline=101.0))
    assert caught.value.retry_after == 1.5
    with pytest.raises(UnavailableError, match="the next one starts in"):
        await batcher.put(item(deadline=101.0))
    patient, endless = item(deadline=102.0), item()
    batcher.submit(patient)
    batcher.submit(endless)
    assert await batcher.take() == [patient, endless]


async def test_queued_items_can_be_taken_after_closing() -> None:
    """Accepted items are computed; then `take` returns an empty batch."""
    batcher = Batcher(ROOMY)
    accepted = item()
    batcher.submit(accepted)
    batcher.close()
    with pytest.raises(UnavailableError, match="being unloaded"):
        batcher.submit(item())
    assert [await batcher.take(), await batcher.take()] == [[accepted], []]


async def test_closing_with_an_error_fails_queued_and_waiting_items() -> None:
    """Every caller gets an answer."""
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=10, max_queue_items=1, max_queue_cost=100))
    queued, waiting = item(), item()
    batcher.submit(queued)
    putting = asyncio.create_task(batcher.put(waiting))
    await asyncio.sleep(0)
    batcher.close(UnavailableError("stopped"))
    await putting
    assert await batcher.take() == []
    assert [str(each.done.exception()) for each in (queued, waiting)] == ["stopped", "stopped"]

"""A quota that several clients share: one that fills it does not keep the others out."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midrib.server._admission.fair_quota import FairQuota, Share
from midrib.wire import OverloadedError

LIMIT = 160
REQUESTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 200)), min_size=1, max_size=40)


def fill(quota: FairQuota, flow: str, *, step: int = 1) -> Share:
    """Hold as much as one flow may; return its share."""
    share = quota.share(flow)
    while share.hold(step):
        pass
    return share


def test_one_flow_alone_reaches_the_limit() -> None:
    """Beyond it, the error says how much the flow holds."""
    bulk = fill(FairQuota(LIMIT), "bulk")
    assert bulk.held == LIMIT
    with pytest.raises(
        OverloadedError, match="160 bytes are in flight and 1 more .* limit 160, of which this client has 160"
    ):
        bulk.acquire_nowait(1)


def test_another_flow_finds_room_beside_it() -> None:
    """The room is there even while requests of the first flow wait."""
    quota = FairQuota(LIMIT)
    fill(quota, "bulk")
    quota.share("interactive").acquire_nowait(5)
    assert quota.held == LIMIT + 5


async def test_flows_that_wait_get_equal_shares() -> None:
    """If two flows send more than fits, released room goes to the one that holds less."""
    quota = FairQuota(LIMIT)
    first, second = fill(quota, "first"), quota.share("second")
    waiting = [asyncio.create_task(share.acquire(8)) for share in [first, second] * 20]
    await asyncio.sleep(0)
    for _ in range(10):
        first.release(8)
        await asyncio.sleep(0)
    assert abs(first.held - second.held) <= 16
    await cancel(waiting)


async def test_a_large_request_waits_for_small_ones_of_others_only_once() -> None:
    """Room that others release while it waits is not taken by them again."""
    quota = FairQuota(LIMIT)
    small, large = fill(quota, "small"), quota.share("large")
    waiting = asyncio.create_task(large.acquire(LIMIT // 2))
    await asyncio.sleep(0)
    released = 0
    while not waiting.done():
        small.release(1)
        assert not small.hold(1)
        released += 1
        await asyncio.sleep(0)
    assert released <= LIMIT // 2


async def test_requests_of_one_flow_are_admitted_in_order() -> None:
    """A small one does not overtake a large one."""
    quota = FairQuota(LIMIT)
    share = fill(quota, "bulk")
    large, small = (asyncio.create_task(share.acquire(amount)) for amount in (100, 1))
    await asyncio.sleep(0)
    share.release(50)
    await asyncio.sleep(0)
    assert [large.done(), small.done()] == [False, False]
    share.release(60)
    await asyncio.gather(large, small)


async def test_a_request_that_leaves_lets_the_next_one_in() -> None:
    """A reservation that is cancelled holds nothing, whether it waited or was just admitted."""
    quota = FairQuota(LIMIT)
    share = fill(quota, "bulk")
    large, small = (asyncio.create_task(share.acquire(amount)) for amount in (100, 1))
    await asyncio.sleep(0)
    share.release(10)
    large.cancel()
    await asyncio.gather(large, small, return_exceptions=True)
    assert share.held == LIMIT - 10 + 1


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@given(requests=REQUESTS)
def test_every_request_is_admitted_once_and_the_sum_is_bounded(requests: list[tuple[int, int]]) -> None:
    """Of any flows and amounts, also beyond the limit, if each is released in the end."""
    asyncio.run(serve(requests))


async def serve(requests: list[tuple[int, int]]) -> None:
    """Hold each request for a turn of the event loop."""
    quota = FairQuota(LIMIT)

    async def request(flow: int, amount: int) -> int:
        share = quota.share(flow)
        async with AsyncExitStack() as cleanup:
            await share.acquire(amount)
            cleanup.callback(share.release, amount)
            assert quota.held <= max(LIMIT + LIMIT // 16, amount)
            await asyncio.sleep(0)
        return amount

    answered = await asyncio.wait_for(asyncio.gather(*(request(*each) for each in requests)), 10)
    assert answered == [amount for _, amount in requests]
    assert quota.held == 0

"""The limits of requests in flight."""

from __future__ import annotations

import asyncio

import pytest

from midrib.server._admission.quotas import Quota, Reservation
from midrib.wire import OverloadedError


def test_a_taker_is_refused_over_the_limit() -> None:
    """It cannot wait, so it gets an error."""
    quota = Quota(10)
    quota.acquire_nowait(6)
    with pytest.raises(OverloadedError, match="6 bytes are in flight and 5 more were asked for, limit 10"):
        quota.acquire_nowait(5)


async def test_waiters_come_in_order() -> None:
    """A small one behind a large one does not overtake it."""
    quota = Quota(10)
    quota.acquire_nowait(8)
    order: list[int] = []

    async def wait(size: int) -> None:
        await quota.acquire(size)
        order.append(size)

    waiting = [asyncio.create_task(wait(size)) for size in (9, 1)]
    await asyncio.sleep(0)
    assert order == []
    quota.release(8)
    await asyncio.gather(*waiting)
    assert (order, quota.held) == ([9, 1], 10)


async def test_a_request_above_the_limit_is_admitted_alone() -> None:
    """Otherwise it would wait forever."""
    quota = Quota(10)
    await asyncio.wait_for(quota.acquire(25), 1)
    assert quota.held == 25


async def test_a_waiter_who_leaves_gives_its_bytes_back() -> None:
    """It makes no difference whether it leaves before its turn or at it."""
    quota = Quota(10)
    quota.acquire_nowait(10)
    before, at_turn = (asyncio.create_task(quota.acquire(4)) for _ in range(2))
    await asyncio.sleep(0)
    before.cancel()
    await asyncio.sleep(0)
    quota.release(10)
    at_turn.cancel()
    await asyncio.gather(before, at_turn, return_exceptions=True)
    assert quota.held == 0


def test_a_hold_is_all_or_nothing() -> None:
    """If one quota is full, the reservations of the others are released."""
    roomy, full = Quota(10), Quota(1)
    full.acquire_nowait(1)
    reservation = Reservation((roomy, 5), (full, 1))
    with pytest.raises(OverloadedError, match="1 bytes are in flight and 1 more"):
        reservation.acquire_nowait()
    assert (roomy.held, full.held) == (0, 1)


async def test_a_hold_whose_waiting_is_cancelled_holds_nothing() -> None:
    """Its earlier reservations are released."""
    roomy, full = Quota(10), Quota(1)
    full.acquire_nowait(1)
    waiting = asyncio.create_task(Reservation((roomy, 5), (full, 1)).acquire())
    await asyncio.sleep(0)
    assert roomy.held == 5
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (roomy.held, full.held) == (0, 1)

"""The budget of bytes in flight."""

from __future__ import annotations

import asyncio

import pytest

from midrib.server._in_flight import ByteBudget
from midrib.wire import OverloadedError


def test_a_taker_is_refused_over_the_limit() -> None:
    """It cannot wait, so it is told."""
    budget = ByteBudget(10)
    budget.take(6)
    with pytest.raises(OverloadedError, match="6 bytes are in flight and 5 more were asked for, limit 10"):
        budget.take(5)


async def test_waiters_come_in_order() -> None:
    """A small one behind a large one does not overtake it."""
    budget = ByteBudget(10)
    budget.take(8)
    order: list[int] = []

    async def wait(size: int) -> None:
        await budget.wait(size)
        order.append(size)

    waiting = [asyncio.create_task(wait(size)) for size in (9, 1)]
    await asyncio.sleep(0)
    assert order == []
    budget.release(8)
    await asyncio.gather(*waiting)
    assert (order, budget.held) == ([9, 1], 10)


async def test_what_is_larger_than_the_limit_goes_alone() -> None:
    """Else it would wait for ever."""
    budget = ByteBudget(10)
    await asyncio.wait_for(budget.wait(25), 1)
    assert budget.held == 25


async def test_a_waiter_who_leaves_gives_its_bytes_back() -> None:
    """Whether it left before its turn or at it."""
    budget = ByteBudget(10)
    budget.take(10)
    before, at_turn = (asyncio.create_task(budget.wait(4)) for _ in range(2))
    await asyncio.sleep(0)
    before.cancel()
    await asyncio.sleep(0)
    budget.release(10)
    at_turn.cancel()
    await asyncio.gather(before, at_turn, return_exceptions=True)
    assert budget.held == 0

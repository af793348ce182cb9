"""Requests that wait to be received cost little, and their number is bounded."""

from __future__ import annotations

import asyncio

import pytest

from midrib.server._admission import receiving
from midrib.server._admission.receiving import Receipt, ReceivePool
from midrib.wire import OverloadedError


@pytest.fixture()
async def pool() -> ReceivePool:
    """A pool whose only request is being received."""
    pool = ReceivePool((1, 1))
    await pool.enter(Receipt((pool,)))
    return pool


async def test_requests_beyond_those_that_may_wait_are_refused_at_once(
    pool: ReceivePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that waits keeps the first bytes of its message."""
    monkeypatch.setattr(receiving, "_MAX_WAITING", 1)
    waiting = asyncio.create_task(pool.enter(Receipt((pool,))))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="limit 1"):
        await pool.enter(Receipt((pool,)))
    waiting.cancel()


async def test_a_request_that_waits_does_nothing_meanwhile(pool: ReceivePool) -> None:
    """It is one task, and the pool has one timer for all: thousands of silent calls take no time of the event loop."""
    waiting = [asyncio.create_task(pool.enter(Receipt((pool,)))) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {*waiting, asyncio.current_task()}
    for task in waiting:
        task.cancel()

"""Waiting for a call on an event loop: its end or its deadline wakes the waiter."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midrib.remote._items.rows import tensor_rows
from midrib.remote._stream.call import StreamedCall
from midrib.remote._stream.waiters import TimeoutQueue, finished

TIMEOUT = 10


class Clock:
    """The parts of an event loop that timers and futures use; the test moves its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """About errors that were not retrieved."""

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> object:
        self.timers.append((when, lambda: callback(*args)))
        return self.timers[-1]

    def move(self, seconds: int) -> None:
        """Second by second, as timers set others."""
        for _ in range(seconds):
            self.now += 1
            due = [act for when, act in self.timers if when <= self.now]
            self.timers = [timer for timer in self.timers if timer[0] > self.now]
            for act in due:
                act()


def a_call() -> StreamedCall:
    return StreamedCall(tensor_rows(np.ones((1, 2), "f4")))


@given(steps=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=30), data=st.data())
def test_exactly_the_waiters_whose_time_is_up_are_ended(steps: list[tuple[int, bool]], data: st.DataObject) -> None:
    """Waiters come and go meanwhile; there is at most one timer, and no reference to a waiter that has left."""
    clock: Any = Clock()
    timeouts = TimeoutQueue(TIMEOUT)
    began: dict[asyncio.Future[None], float] = {}
    for seconds, comes in steps:
        clock.move(seconds)
        if comes:
            waiter = asyncio.Future[None](loop=clock)
            began[waiter] = clock.now
            timeouts.add(waiter)
        elif began:
            timeouts.discard(gone := data.draw(st.sampled_from(sorted(began, key=id))))
            del began[gone]
        assert {w for w in began if w.done()} == {w for w, since in began.items() if since + TIMEOUT <= clock.now}
        assert (timeouts.empty, len(clock.timers) <= 1) == (all(w.done() for w in began), True)
    clock.move(TIMEOUT)
    assert all(isinstance(waiter.exception(), TimeoutError) for waiter in began)
    assert (timeouts.empty, clock.timers) == (True, [])


async def test_a_deadline_comes_though_nothing_else_happens() -> None:
    """No call can hang: neither of several timeouts, nor of several waiters."""
    waits = [finished(a_call(), timeout) for timeout in (0.01, 0.02, 0.01)]
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 3


async def test_the_end_of_a_call_wakes_all_who_wait() -> None:
    """A call that ends in another thread wakes each waiter once."""
    call = a_call()
    waiting = [asyncio.create_task(finished(call, 60)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.to_thread(call.deliver, 0, np.ones((1, 2), "f4"))
    assert await asyncio.gather(*waiting) == [None] * 3


async def test_a_cancelled_wait_keeps_no_reference_to_its_call() -> None:
    """The reference is dropped at once, not at the deadline."""
    x = np.ones((1, 2), "f4")
    waiting = asyncio.create_task(finished(StreamedCall(tensor_rows(x)), 3600))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError, match="^$"):
        await waiting
    kept = weakref.ref(x)
    del x, waiting
    await asyncio.sleep(0)  # the loop itself holds the task that woke this one
    gc.collect()
    assert kept() is None


def test_each_loop_of_a_thread_has_its_own_deadlines() -> None:
    """Two loops, one after the other: the waiters of the first do not delay the second."""
    for _ in range(2):
        with pytest.raises(TimeoutError, match=r"not done within 0\.01 s"):
            asyncio.run(finished(a_call(), 0.01))

"""Wakes the tasks of callers' event loops: once for all that are ready, as each wake-up costs a system call."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from concurrent.futures import Future
from typing import Any


class _Post:
    """The letters of one event loop."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Future[None]] = deque()
        self._due = False

    def send(self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
        """Have a waiter woken; from any thread."""
        self._ready.append(waiter)
        if not self._due:
            self._due = True
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits there
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._due = False  # first: what is sent from here on asks for another delivery
        while self._ready:
            waiter = self._ready.popleft()
            if not waiter.done():
                waiter.set_result(None)


_posts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Post] = weakref.WeakKeyDictionary()


async def finished(future: Future[Any], timeout: float) -> None:
    """Wait, on the caller's loop, until a future of another thread is done; cancelling this leaves it alone.

    Raises TimeoutError after so many seconds.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    post = _posts.get(loop)
    if post is None:
        post = _posts.setdefault(loop, _Post())
    future.add_done_callback(lambda _: post.send(loop, waiter))
    timer = loop.call_later(timeout, _expire, waiter)  # half of what asyncio.timeout costs a call
    try:
        await waiter
    finally:
        timer.cancel()


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())

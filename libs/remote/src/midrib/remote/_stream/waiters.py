"""Wakes the tasks of callers' event loops: once for all that are ready, as each wake-up costs a system call."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from functools import partial

from midrib.remote._stream.call import Call
from midrib.remote._stream.timeouts import TimeoutQueue


class LoopWaker:
    """The letters of one event loop, and how long its waiters wait for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._ready: deque[asyncio.Future[None]] = deque()
        self._due = False
        self._patience: dict[float, TimeoutQueue] = {}

    def patience(self, timeout: float) -> TimeoutQueue:
        """That of all waiters with this timeout; on the loop only."""
        found = self._patience.get(timeout)
        if found is None:
            self._patience = {timeout: other for timeout, other in self._patience.items() if other.needed}
            found = self._patience[timeout] = TimeoutQueue(timeout)
        return found

    def send(self, waiter: asyncio.Future[None]) -> None:
        """Have a waiter woken; from any thread."""
        self._ready.append(waiter)
        if not self._due:
            self._due = True
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits there
                waiter.get_loop().call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._due = False  # first: what is sent from here on asks for another delivery
        while self._ready:
            waiter = self._ready.popleft()
            if not waiter.done():
                waiter.set_result(None)


_here = threading.local()


async def finished(call: Call, timeout: float) -> None:
    """Wait, on the caller's loop, until a call is over; cancelling this leaves it alone.

    Raises TimeoutError after so many seconds.
    """
    loop = asyncio.get_running_loop()
    post: LoopWaker | None = getattr(_here, "post", None)
    if post is None or post.loop() is not loop:
        post = _here.post = LoopWaker(loop)
    waiter: asyncio.Future[None] = loop.create_future()
    patience = post.patience(timeout)
    patience.begin(waiter)
    call.when_done(partial(post.send, waiter))
    try:
        await waiter
    finally:
        patience.end(waiter)

"""Lets the tasks of callers' event loops wait for calls, with one wake-up and one timer for many of them.

A wake-up of another thread's loop costs a system call, and a timer for each wait a fifth of a small call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from functools import partial

from midrib.remote._stream.call import StreamedCall


class TimeoutQueue:
    """Ends the waiters of one event loop that have waited for `timeout` seconds.

    All have the same timeout, so they expire in the order in which they began, and only the oldest needs the timer.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._deadlines: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def empty(self) -> bool:
        """Whether it is without waiters."""
        return not self._deadlines

    def add(self, waiter: asyncio.Future[None]) -> None:
        """Give a waiter TimeoutError after `timeout` seconds."""
        loop = waiter.get_loop()
        self._deadlines[waiter] = deadline = loop.time() + self._timeout
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._expire, loop)

    def discard(self, waiter: asyncio.Future[None]) -> None:
        """Forget a waiter."""
        self._deadlines.pop(waiter, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._deadlines:
            waiter, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                self._timer = loop.call_at(deadline, self._expire, loop)
                return
            del self._deadlines[waiter]
            if not waiter.done():
                waiter.set_exception(TimeoutError(f"not done within {self._timeout:g} s"))
        self._timer = None


class LoopWaker:
    """Wakes the waiters of one event loop, all that are ready at once, and ends those whose time is up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._ready: deque[asyncio.Future[None]] = deque()
        self._due = False
        self._timeouts: dict[float, TimeoutQueue] = {}

    def timeouts(self, timeout: float) -> TimeoutQueue:
        """Return the queue of the waiters with this timeout, in seconds. On the loop only."""
        queue = self._timeouts.get(timeout)
        if queue is None:
            self._timeouts = {seconds: other for seconds, other in self._timeouts.items() if not other.empty}
            queue = self._timeouts[timeout] = TimeoutQueue(timeout)
        return queue

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Wake a waiter soon. From any thread."""
        self._ready.append(waiter)
        if not self._due:
            self._due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no task waits there
                waiter.get_loop().call_soon_threadsafe(self._wake_ready)

    def _wake_ready(self) -> None:
        self._due = False  # first, because a waiter that becomes ready from here on needs another call
        while self._ready:
            waiter = self._ready.popleft()
            if not waiter.done():
                waiter.set_result(None)


_thread = threading.local()


async def finished(call: StreamedCall, timeout: float) -> None:
    """Wait on the caller's event loop until a call is done. Cancelling this does not affect the call.

    Raises TimeoutError after timeout seconds.
    """
    loop = asyncio.get_running_loop()
    waker: LoopWaker | None = getattr(_thread, "waker", None)
    if waker is None or waker.loop() is not loop:
        waker = _thread.waker = LoopWaker(loop)
    waiter: asyncio.Future[None] = loop.create_future()
    timeouts = waker.timeouts(timeout)
    timeouts.add(waiter)
    call.when_done(partial(waker.wake, waiter))
    try:
        await waiter
    finally:
        timeouts.discard(waiter)

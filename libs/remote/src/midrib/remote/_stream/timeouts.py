"""The deadlines of an event loop's waiters: one timer for many, as a timer each costs a fifth of a small call."""

from __future__ import annotations

import asyncio


class TimeoutQueue:
    """Ends the waiters of one event loop that waited for timeout seconds.

    All have the same timeout, so they are late in the order in which they came, and only the oldest needs the timer.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._until: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def needed(self) -> bool:
        """Whether anyone waits."""
        return bool(self._until)

    def begin(self, waiter: asyncio.Future[None]) -> None:
        """From now on so many seconds, and it ends with a TimeoutError."""
        loop = waiter.get_loop()
        self._until[waiter] = until = loop.time() + self._timeout
        if self._timer is None:
            self._timer = loop.call_at(until, self._look, loop)

    def end(self, waiter: asyncio.Future[None]) -> None:
        """It waits no longer."""
        self._until.pop(waiter, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._until:
            waiter, until = next(iter(self._until.items()))
            if until > now:
                self._timer = loop.call_at(until, self._look, loop)
                return
            del self._until[waiter]
            if not waiter.done():
                waiter.set_exception(TimeoutError())
        self._timer = None

"""The outcome of work that the runtime's thread does for a caller on another thread or event loop.

A `concurrent.futures.Future` does not survive Ctrl-C: its condition is written in Python, and an interrupt between two
of its steps leaves the lock locked. The runtime's thread would then wait for that lock forever. `threading.Lock`, which
is written in C, does not have this fault. A Future would also cost more than everything else that a small call does.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, Generic, TypeVar

_T = TypeVar("_T")
_ABANDONED: Final = CancelledError()  # no caller is left to see it


class PendingResult(Generic[_T]):
    """A result or an error that comes later.  done: it has come, or the caller abandoned it."""

    __slots__ = ("done", "_outcome", "_wakers", "_lock")

    def __init__(self) -> None:
        self.done = False
        self._outcome: _T | BaseException = _ABANDONED
        self._wakers: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def leave(self) -> None:
        """Abandon it: its caller stopped waiting."""
        self._end(_ABANDONED)

    def when_done(self, waker: Callable[[], object]) -> None:
        """Have waker called once, by the thread that ends this; at once if it is done."""
        self._wakers.append(waker)
        self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is done. Return False after timeout seconds; None waits without limit."""
        if self.done:
            return True
        latch = threading.Lock()
        latch.acquire()
        self.when_done(latch.release)
        return latch.acquire(timeout=-1 if timeout is None else max(0.0, timeout))

    def result(self) -> _T:
        """Return the result, once `done`. Raises the error, if it failed; CancelledError if it was abandoned."""
        outcome = self._outcome
        if outcome is _ABANDONED:
            raise CancelledError  # a new one, because a raised error keeps the frames that it passed
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _end(self, outcome: _T | BaseException) -> None:
        with self._lock:
            self._set(outcome)
        self._wake()

    def _set(self, outcome: _T | BaseException) -> None:
        if not self.done:  # else it was abandoned, or failed before
            self._outcome = outcome
            self.done = True

    def _wake(self) -> None:
        """Call the wakers if it is done; each is called by the one thread that removes it from the list."""
        while self.done and self._wakers:
            try:
                waker = self._wakers.pop()
            except IndexError:
                return  # another thread got the last one
            waker()


class LoopCall(PendingResult[_T]):
    """A coroutine that runs on an event loop of another thread. Abandoning it cancels the coroutine.

    Its error is CancelledError if the loop ends first.
    """

    __slots__ = ("_loop", "_work", "_task")

    def __init__(self, work: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[_T] | None = None

    def begin(self) -> None:
        """Start the coroutine. On the loop only."""
        if self.done:
            self._work.close()
            return
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._finish)

    def leave(self) -> None:
        """Abandon the coroutine, which ends soon. From any thread."""
        super().leave()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel)

    async def result_async(self) -> _T:
        """Wait on the caller's event loop, and return the result. Raises its error; cancelling this abandons it."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                loop.call_soon_threadsafe(_set_if_pending, waiter)

        self.when_done(wake)
        try:
            await waiter
        except BaseException:
            self.leave()
            raise
        return self.result()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[_T]) -> None:
        self._task = None  # its frames hold gRPC's objects, which must end before a fork
        error = CancelledError() if task.cancelled() else task.exception()
        self._end(task.result() if error is None else error)


def _set_if_pending(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

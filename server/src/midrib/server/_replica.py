"""The thread that runs one backbone on one device, a batch at a time.

A batch that fails is split and tried again in halves, down to single items: a poison item spoils only itself,
and a batch too big for the device's memory still gets its rows.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from midrib.wire import Array, UnavailableError

Arrays: TypeAlias = tuple[Array, ...]
# The rows of each item of a batch.
Compute: TypeAlias = Callable[[Sequence[Arrays]], Sequence[Array]]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a batch came to: one result an item, and when it ran (on time.monotonic)."""

    results: Sequence[Array | Exception]
    started: float
    finished: float


@dataclass(frozen=True, slots=True)
class _Job:
    batch: Sequence[Arrays]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[BatchReport]


class Replica:
    """Runs `compute` on a thread of its own.

    prepare: called first, on that thread: it builds and warms `compute` (thread counts are a thread's own).
    """

    def __init__(self, prepare: Callable[[], Compute], *, name: str) -> None:
        self._prepare = prepare
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name=f"replica-{name}", daemon=True)
        self._ready: asyncio.Future[None]
        self._loop: asyncio.AbstractEventLoop
        self._lost: BaseException | None = None
        self._current: _Job | None = None

    async def start(self) -> None:
        """Start the thread and wait until it is warm; raises what preparing raised."""
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._thread.start()
        await self._ready

    async def run(self, batch: Sequence[Arrays]) -> BatchReport:
        """Run one batch after those before it.

        Raises UnavailableError if the thread dies: the items may be run again, elsewhere.
        """
        if self._lost is not None:
            raise _lost_error(self._lost)
        job = _Job(batch, self._loop, self._loop.create_future())
        self._jobs.put(job)
        return await job.done

    def close(self) -> None:
        """End the thread after the batch that it runs."""
        self._jobs.put(None)

    async def join(self) -> None:
        """Wait until the thread has ended."""
        await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        try:
            compute = self._prepare()
        except BaseException as error:  # noqa: BLE001 - whatever stops a backbone from loading is its report
            self._loop.call_soon_threadsafe(_settle, self._ready, error)
            return
        self._loop.call_soon_threadsafe(_settle, self._ready, None)
        try:
            while (job := self._jobs.get()) is not None:
                self._current = job
                started = time.monotonic()
                results = run_or_split(compute, job.batch)
                report = BatchReport(results, started, time.monotonic())
                self._current = None
                job.loop.call_soon_threadsafe(_settle, job.done, report)
        except BaseException as error:  # noqa: BLE001 - the thread is lost; its items must not be
            self._loop.call_soon_threadsafe(self._fail_waiting, error)

    def _fail_waiting(self, error: BaseException) -> None:
        """On the loop: nothing more runs here, so everything handed over fails as retriable."""
        self._lost = error
        jobs = [self._current] if self._current else []
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                jobs.append(job)
        for job in jobs:
            _settle(job.done, _lost_error(error))


def run_or_split(compute: Compute, batch: Sequence[Arrays]) -> list[Array | Exception]:
    """The result of every item; a failing batch is halved until the failing items stand alone."""
    try:
        return list(compute(batch))
    except Exception as error:  # noqa: BLE001 - a module may raise anything; it is that item's result
        if len(batch) == 1:
            return [error]
    middle = len(batch) // 2
    return run_or_split(compute, batch[:middle]) + run_or_split(compute, batch[middle:])


def _lost_error(error: BaseException) -> UnavailableError:
    return UnavailableError(
        f"the replica that ran this item was lost ({type(error).__name__}): try again", retry_after=0.1
    )


def _settle(future: asyncio.Future[BatchReport] | asyncio.Future[None], result: object) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)  # type: ignore[arg-type] # each future is settled with its own kind

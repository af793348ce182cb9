"""The thread that runs one backbone on one device, a batch at a time.

While it computes, a second thread stages the next batch, if it is large; a third waits for batches that a GPU has not
finished. The batch of a lone caller needs the first thread only.

A batch that fails is split and tried again in halves, down to single items: an item that makes the module fail does
not fail the others, and a batch too large for the device's memory still gets its rows.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from midrib.server._engine.compute import Arrays, BatchReport, Calibrated, Compute, Launched, Staged, WorkerPlan
from midrib.server._engine.item import settle
from midrib.server._errors import ordinary_error
from midrib.wire import Array, UnavailableError

# The fewest bytes of a batch that another thread stages: staging a smaller one takes less time than waking a thread.
_LARGE_BATCH_BYTES = 1 << 20


@dataclass(slots=True, eq=False)
class _Job:
    """A batch that the replica has accepted. ahead: the staged batch, if another thread stages it."""

    batch: Sequence[Arrays]
    done: asyncio.Future[BatchReport]
    ahead: Future[Staged] | None = None
    staging_s: float = 0.0
    started: float = 0.0


@dataclass(slots=True, eq=False)
class _PlanJob:
    """A measurement of the compute plan, or the use of a plan, between two batches."""

    plan: WorkerPlan | None
    done: asyncio.Future[WorkerPlan | None]


class Replica:
    """Runs a `Compute` on a dedicated thread.

    prepare: called first, on that thread, to build and warm the compute: intra-op thread counts belong to a thread.
    """

    def __init__(self, prepare: Callable[[], Compute], *, name: str) -> None:
        self._prepare = prepare
        self._compute: Compute
        self._jobs: queue.SimpleQueue[_Job | _PlanJob | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name=f"replica-{name}", daemon=True)
        self._staging = ThreadPoolExecutor(1, thread_name_prefix=f"staging-{name}")
        self._finishing = ThreadPoolExecutor(1, thread_name_prefix=f"finishing-{name}")
        self._ready: asyncio.Future[None]
        self._loop: asyncio.AbstractEventLoop
        self._lost: BaseException | None = None
        self._submitted: set[_Job] = set()
        self._plan_change: asyncio.Future[WorkerPlan | None] | None = None
        self._last_finished = 0.0
        self._stop_measuring = False

    @property
    def depth(self) -> int:
        """The number of batches to submit before the first is done."""
        return self._compute.depth

    async def start(self) -> None:
        """Start the thread and wait until its compute is warm. Raises the errors of `prepare`."""
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._thread.start()
        await self._ready

    def submit(self, batch: Sequence[Arrays]) -> asyncio.Future[BatchReport]:
        """Run a batch after those before it; at most `depth` of them at a time.

        batch: for each item its arrays, [rows, ...]. The future raises UnavailableError if the thread dies: the items
        may be run again, elsewhere.
        """
        done: asyncio.Future[BatchReport] = self._loop.create_future()
        if self._lost is not None:
            done.set_exception(_lost_error(self._lost))
            return done
        job = _Job(batch, done)
        if self._submitted and _size(batch) >= _LARGE_BATCH_BYTES:
            job.ahead = self._staging.submit(self._stage, job)
        self._submitted.add(job)
        self._jobs.put(job)
        return done

    def change_plan(self, plan: WorkerPlan | None) -> asyncio.Future[WorkerPlan | None]:
        """Use a plan or measure it again, as `BatchRunner` says; one at a time.

        The future raises UnavailableError if the thread dies; its result is None if it has died before.
        """
        self._stop_measuring = False
        self._plan_change = done = self._loop.create_future()
        if self._lost is None:
            self._jobs.put(_PlanJob(plan, done))
        else:
            done.set_result(None)
        return done

    def stop_measuring(self) -> None:
        """End a measurement after its present pass."""
        self._stop_measuring = True

    def abandon(self, error: UnavailableError) -> None:
        """Fail all submitted batches with the error: their computation may never end. Call it on the event loop."""
        self._lose(error)

    def close(self) -> None:
        """End the thread once the submitted batches are done."""
        self._jobs.put(None)

    async def join(self) -> None:
        """Wait until the thread has ended."""
        await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        try:
            self._compute = self._prepare()
        except BaseException as error:  # noqa: BLE001 - `start` raises it
            self._loop.call_soon_threadsafe(settle, self._ready, ordinary_error(error, "preparing the replica"))
            return
        self._loop.call_soon_threadsafe(settle, self._ready, None)
        try:
            while (job := self._jobs.get()) is not None:
                if isinstance(job, _PlanJob):
                    self._change_plan(job)
                else:
                    self._launch(job)
                del job  # while the thread waits, nothing keeps the inputs of the last batch
        except BaseException as error:  # noqa: BLE001 - the thread is lost; its items must not be
            self._loop.call_soon_threadsafe(self._lose, error)
        self._staging.shutdown()
        self._finishing.shutdown()
        self._compute.close()

    def _change_plan(self, job: _PlanJob) -> None:
        result: WorkerPlan | Exception | None = None
        try:
            if isinstance(self._compute, Calibrated):
                result = job.plan
                if job.plan is None:
                    result = self._compute.measure_again(lambda: self._stop_measuring or not self._jobs.empty())
                else:
                    self._compute.use_plan(job.plan)
        except Exception as error:  # noqa: BLE001 - a module may raise anything
            result = error
        self._loop.call_soon_threadsafe(settle, job.done, result)

    def _stage(self, job: _Job) -> Staged:
        began = time.monotonic()
        staged = self._compute.stage(job.batch)
        job.staging_s = time.monotonic() - began
        return staged

    def _launch(self, job: _Job) -> None:
        job.started = time.monotonic()
        try:
            staged = self._stage(job) if job.ahead is None else job.ahead.result()
            job.started = time.monotonic()
            launched = staged.launch()
        except Exception as error:  # noqa: BLE001 - a module may raise anything
            self._report(job, _run_halves(self._compute, job.batch, error))
            return
        if launched.ready:
            self._finish(job, launched)
        else:
            self._finishing.submit(self._finish_or_lose, job, launched)

    def _finish(self, job: _Job, launched: Launched) -> None:
        results: Sequence[Array | Exception]
        try:
            results = launched.finish()
        except Exception as error:  # noqa: BLE001 - a GPU reports its faults late
            results = _run_halves(self._compute, job.batch, error)
        self._report(job, results)

    def _finish_or_lose(self, job: _Job, launched: Launched) -> None:
        try:
            self._finish(job, launched)
        except BaseException as error:  # noqa: BLE001 - as in _main
            self._loop.call_soon_threadsafe(self._lose, error)

    def _report(self, job: _Job, results: Sequence[Array | Exception]) -> None:
        """Report the results of a batch. Raises the error that ends the thread if the module is broken."""
        broken = self._broken() if any(isinstance(result, Exception) for result in results) else None
        if broken is not None and (len(results) > 1 or isinstance(broken, UnavailableError)):
            raise broken  # other items than the one that broke the module are in the batch: they are retriable
        finished = time.monotonic()
        # A batch that was launched behind another began to compute when that one had ended.
        started = max(job.started, self._last_finished)
        self._last_finished = finished
        lost = None if broken is None else _lost_error(broken)
        report = BatchReport(results, job.staging_s, started, finished, lost)
        self._loop.call_soon_threadsafe(self._settle_job, job, report)
        if broken is not None:
            raise broken

    def _broken(self) -> Exception | None:
        """Return the error of an example, after a batch that failed; None if the fault is in the items."""
        try:
            if isinstance(self._compute, Calibrated):
                self._compute.probe()
        except Exception as error:  # noqa: BLE001 - a module may raise anything
            return error
        return None

    def _settle_job(self, job: _Job, report: BatchReport) -> None:
        self._submitted.discard(job)
        settle(job.done, report)

    def _lose(self, error: BaseException) -> None:
        """Fail all submitted batches as retriable, because nothing computes here any more; on the event loop."""
        self._lost = error
        lost = error if isinstance(error, UnavailableError) else _lost_error(error)
        for job in self._submitted:
            settle(job.done, lost)
        self._submitted.clear()
        if self._plan_change is not None:
            settle(self._plan_change, lost)
        self.close()
        self._compute.close()  # ends a worker process that still computes


def _run_or_split(compute: Compute, batch: Sequence[Arrays]) -> list[Array | Exception]:
    """Return the rows [rows, num_features] or the error of each item.

    A failing batch is halved until the failing items are found.
    """
    try:
        return list(compute.stage(batch).launch().finish())
    except Exception as error:  # noqa: BLE001 - a module may raise anything
        return _run_halves(compute, batch, error)


def _run_halves(compute: Compute, batch: Sequence[Arrays], error: Exception) -> list[Array | Exception]:
    """Return the results of a batch that failed as a whole, by running its halves."""
    if len(batch) == 1:
        return [error]
    middle = len(batch) // 2
    return _run_or_split(compute, batch[:middle]) + _run_or_split(compute, batch[middle:])


def _size(batch: Sequence[Arrays]) -> int:
    return sum(array.nbytes for arrays in batch for array in arrays)


def _lost_error(error: BaseException) -> UnavailableError:
    return UnavailableError(
        f"the replica that ran this item was lost ({type(error).__name__}): try again", retry_after=0.1
    )

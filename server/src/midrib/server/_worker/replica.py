"""A replica of the engine whose batches a worker process computes. It runs on the event loop, without a thread.

The event loop writes a batch into shared memory, sends a message, and reads the answer: a batch wakes the worker once
and the loop once.

If a worker dies, its batch is computed again, one item at a time, by the worker of another replica of the backbone, or
by its own successor: a pass has no effect but its result. An item that ends workers is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from midrib.server._engine.compute import Arrays, BatchReport, WorkerPlan
from midrib.server._foreign import in_thread
from midrib.server._worker.connection import WorkerConnection, WorkerLimits
from midrib.server._worker.messages import Prepared
from midrib.server._worker.process import BatchTooLongError, WorkerDiedError, WorkerProcess
from midrib.server._worker.staging import BatchTransfer
from midrib.server._worker.supervision import Supervisor
from midrib.server._worker.work import MAX_BATCH_DEATHS, MAX_ITEM_DEATHS, Batch, Part
from midrib.wire import Array, InternalError, UnavailableError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadyWorker:
    """A supervised worker that is ready for batches. max_batch_s: the most seconds that one batch may compute."""

    supervisor: Supervisor
    prepared: Prepared
    max_batch_s: float


@dataclass
class ReplicaGroup:
    """The replicas of one backbone. Those whose workers run compute for those whose workers are being replaced.

    on_lost: called when the last one is lost because its worker cannot be replaced.
    on_change: called when a worker has ended, and when its successor is ready.
    """

    replicas: list[WorkerReplica] = field(default_factory=list)
    on_lost: Callable[[], None] = lambda: None
    on_change: Callable[[], None] = lambda: None

    def running(self) -> WorkerReplica | None:
        """Return the least loaded replica whose worker runs; None if there is none."""
        running = [replica for replica in self.replicas if replica.running]
        return min(running, key=lambda replica: replica.load, default=None)

    def starts_at(self) -> float:
        """Return when the first of them may start a worker, on time.monotonic; 0 if one runs or may start now."""
        return min((replica.starts_at for replica in self.replicas), default=0.0)

    def forget_listeners(self) -> None:
        """Drop the listeners, which refer to this object: a cycle would keep the shared memory until collected."""
        self.on_lost = self.on_change = lambda: None


class WorkerReplica:
    """Runs batches on the worker of one replica, and has a dead worker replaced. Its methods are for the event loop.

    prepare: called first, on another thread: it starts a worker and makes it ready.
    """

    def __init__(self, prepare: Callable[[], ReadyWorker], group: ReplicaGroup, *, name: str) -> None:
        self.depth = 1
        self._name = name
        self._prepare = prepare
        self._group = group
        self._ready: ReadyWorker | None = None
        self._connection: WorkerConnection | None = None
        self._free: list[int] = []
        self._waiting: deque[Part] = deque()
        self._batches: set[Batch] = set()
        self._lost: UnavailableError | None = None
        self._closing = self._over = False
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> bool:
        """Whether its worker runs."""
        return self._connection is not None

    @property
    def starts_at(self) -> float:
        """When its next worker may start, on time.monotonic; 0 if its worker runs, or may start now."""
        return 0.0 if self.running or self._ready is None else self._ready.supervisor.starts_at

    @property
    def load(self) -> int:
        """The number of parts that it has."""
        return len(self._waiting) + (self._connection.load if self._connection is not None else 0)

    async def start(self) -> None:
        """Wait until the worker is ready; raises the errors of the preparation."""
        ready = self._ready = await in_thread(self._prepare, f"preparing a worker of {self._name}")
        worker = await in_thread(ready.supervisor.worker, f"starting a worker of {self._name}")
        self.depth = ready.prepared.depth
        self._free = list(range(len(ready.supervisor.buffers)))
        self._group.replicas.append(self)
        self._connect(ready, worker)

    def submit(self, batch: Sequence[Arrays]) -> asyncio.Future[BatchReport]:
        """Run a batch of items, each of arrays [rows, ...]; at most `depth` batches at a time.

        The future raises UnavailableError if no worker can be started any more: the items may be run elsewhere.
        """
        submitted = Batch(batch, asyncio.get_running_loop().create_future())
        if self._lost is not None:
            submitted.fail(self._lost)
            return submitted.done
        self._batches.add(submitted)
        submitted.done.add_done_callback(lambda _: self._forget(submitted))
        self._place(Part(submitted, 0, len(batch)))
        return submitted.done

    def change_plan(self, plan: WorkerPlan | None) -> asyncio.Future[WorkerPlan | None]:
        """Have the worker use a plan or measure it again, as `BatchRunner` says."""
        if self._connection is not None:
            return self._connection.change_plan(plan)
        unchanged: asyncio.Future[WorkerPlan | None] = asyncio.get_running_loop().create_future()
        unchanged.set_result(None)
        return unchanged

    def stop_measuring(self) -> None:
        """End a measurement after its present pass."""
        if self._connection is not None:
            self._connection.stop_measuring()

    def abandon(self, error: UnavailableError) -> None:
        """Fail the batches that it has, and end the worker."""
        self._lose(error)

    def close(self) -> None:
        """End the worker after the batches that it has."""
        self._closing = True
        self._end_if_idle()

    async def join(self) -> None:
        """Wait until the worker has ended."""
        await self._ended.wait()

    def on_result(self, part: Part, result: Sequence[Array] | Exception) -> None:
        """Settle a part with rows [rows, num_features] for each item; compute a failed part again in halves."""
        if not isinstance(result, Exception):
            part.settle(result)
        elif part.single:
            part.fail(result)
        else:
            self._waiting.extendleft(reversed(part.halves()))
        self._send_waiting()

    def on_unsent(self, part: Part) -> None:
        """Queue the part again."""
        self._place(part)

    def on_end(self, parts: Sequence[Part], how: str, kind: type[WorkerDiedError]) -> None:
        """Replace the worker; its parts are computed again."""
        connection, self._connection = self._connection, None
        if connection is not None and self._ready is not None:
            self._group.on_change()
            self._run(self._replace_or_lose(self._ready, parts, partial(connection.worker.death, how, kind)))

    def _connect(self, ready: ReadyWorker, worker: WorkerProcess) -> None:
        transfer = BatchTransfer(ready.supervisor.buffers, ready.prepared)
        limits = WorkerLimits(self.depth, ready.max_batch_s)
        self._connection = WorkerConnection(worker, transfer, self._free, limits, self)
        self._send_waiting()

    def take(self, part: Part) -> None:
        """Queue a part, also one of another replica."""
        if self._over:
            part.batch.fail(self._lost or _lost_error("closed"))
            return
        self._waiting.append(part)
        self._send_waiting()

    def _place(self, part: Part) -> None:
        """Queue a part here, or with another replica while this one's worker is being replaced."""
        replica = self if self.running else self._group.running() or self
        replica.take(part)

    def _place_all(self, parts: Sequence[Part]) -> None:
        for part in parts:
            self._place(part)

    def _send_waiting(self) -> None:
        while self._waiting and self._connection is not None and self._connection.has_room:
            part = self._waiting.popleft()
            if not part.batch.done.done():
                self._connection.send(part)
        if self._closing:
            self._end_if_idle()

    async def _replace_or_lose(
        self, ready: ReadyWorker, parts: Sequence[Part], explain: Callable[[], WorkerDiedError]
    ) -> None:
        try:
            await self._replace(ready, parts, explain)
        except Exception as error:  # noqa: BLE001 - any error of a start, or of a system without threads, loses it
            self._lose(_lost_error(type(error).__name__))
            if not self._group.replicas:
                self._group.on_lost()

    async def _replace(self, ready: ReadyWorker, parts: Sequence[Part], explain: Callable[[], WorkerDiedError]) -> None:
        try:
            death = await in_thread(explain, f"ending a worker of {self._name}")
        except Exception:
            self._waiting.extend(parts)  # to be failed, also those of other replicas
            raise
        again = sum(part.end - part.first for part in parts[:1])
        logger.warning("%s; items of its batch that are computed again: %d", death.explained(), again)
        self._blame(parts[:1], death)
        waiting, self._waiting = list(self._waiting), deque()
        self._place_all([*parts[1:], *waiting])  # the worker had not begun with these
        if self._over:
            return
        start = partial(ready.supervisor.worker, was_idle=not parts)
        successor = await in_thread(start, f"replacing a worker of {self._name}")
        if not self._over:
            self._connect(ready, successor)
            self._group.on_change()

    def _blame(self, parts: Sequence[Part], death: WorkerDiedError) -> None:
        """Have the items of the part that the worker computed run alone; refuse one that has ended workers alone."""
        for part in parts:
            part.batch.deaths += 1
            # Two time limits are enough to wait.
            counted = part.deaths + int(part.single or isinstance(death, BatchTooLongError))
            if part.single and counted >= MAX_ITEM_DEATHS:
                logger.error("an item is refused: %d workers ended with it", counted)
                part.fail(_refused())
            elif part.batch.deaths >= MAX_BATCH_DEATHS:
                part.fail(_left_to_its_caller())
            else:
                self._place_all([*part.apart(deaths=counted)])

    def _forget(self, batch: Batch) -> None:
        self._batches.discard(batch)
        self._end_if_idle()

    def _lose(self, error: UnavailableError) -> None:
        """Fail everything that it has as retriable, and end."""
        self._lost = error
        for batch in [*self._batches, *(part.batch for part in self._waiting)]:
            batch.fail(error)
        self._waiting.clear()
        self._end()

    def _end_if_idle(self) -> None:
        if self._closing and not self._batches and not self.load:
            self._end()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        connection, self._connection = self._connection, None
        for part in connection.close() if connection is not None else ():
            part.batch.fail(self._lost or _lost_error("closed"))
        if self in self._group.replicas:
            self._group.replicas.remove(self)
        self._run(self._close_supervisor())

    async def _close_supervisor(self) -> None:
        try:
            if self._ready is not None:
                await in_thread(self._ready.supervisor.close, f"ending a worker of {self._name}")
        finally:
            if not self._group.replicas:
                self._group.forget_listeners()
            self._ended.set()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _lost_error(reason: str) -> UnavailableError:
    return UnavailableError(f"the replica that ran this item was lost ({reason}): try again", retry_after=0.1)


def _refused() -> InternalError:
    return InternalError("the backbone's process ended each time it computed this item", reason="WORKER_DIED")


def _left_to_its_caller() -> UnavailableError:
    return UnavailableError("the worker that computed this item's batch died repeatedly: try again", retry_after=1.0)

"""A served backbone: its queue, its replicas, and the outcomes of their batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.batcher import Batcher
from midrib.server._engine.compute import BatchReport, BatchRunner, Compute, WorkerPlan
from midrib.server._engine.description import ServedDescription
from midrib.server._engine.feeder import Feeder
from midrib.server._engine.item import Item, Outcome, settle
from midrib.server._engine.outcomes import WorkTotals, outcomes_of
from midrib.server._engine.replica import Replica
from midrib.wire import UnavailableError

logger = logging.getLogger(__name__)

# The seconds that a running batch has to end after the grace, and then the calls of its items to fail.
_LAST_BATCH_S = 1.0

# Called with every batch: its items, the outcome of each, and the seconds that it computed.
OnBatch: TypeAlias = Callable[[Sequence[Item], Sequence[Outcome | Exception], float], None]


class ServedBackbone:
    """Runs the items of one backbone on its replicas.

    on_batch: functions to call with every batch.  on_lost: called once no replica is left.
    compute_factories: one per replica; each is called on that replica's thread to build and warm its compute.
    replica_factories: one per replica that computes elsewhere; each is called with the replica's name.
    worker_restarts: returns how often a worker process was replaced.
    has_workers: returns whether a worker runs, or threads compute.  on_workers: called when that may have changed.
    """

    def __init__(
        self,
        description: ServedDescription,
        compute_factories: Sequence[Callable[[], Compute]],
        limits: BatchLimits,
        *,
        replica_factories: Sequence[Callable[[str], BatchRunner]] = (),
    ) -> None:
        self.description = description
        self.batcher = Batcher(limits)
        self.draining = asyncio.Event()
        self.totals = WorkTotals()
        self.on_batch: list[OnBatch] = []
        self.on_lost: Callable[[], None] = lambda: None
        self.worker_restarts: Callable[[], int] = lambda: 0
        self.has_workers: Callable[[], bool] = lambda: True
        self.on_workers: Callable[[], None] = lambda: None
        self._replica_factories: list[Callable[[str], BatchRunner]] = [
            *(partial(_in_thread, factory) for factory in compute_factories),
            *replica_factories,
        ]
        self._feeders: list[asyncio.Task[None]] = []
        self._replicas: dict[int, BatchRunner] = {}

    @property
    def idle(self) -> bool:
        """Whether no accepted item is queued or computed."""
        counts, totals = self.batcher.counts, self.totals
        return counts.accepted == totals.answered + totals.failed + counts.cancelled + counts.expired

    @property
    def replicas(self) -> int:
        """The number of its replicas."""
        return len(self._replica_factories)

    async def start(self) -> None:
        """Start and warm every replica. Raises the error of the first one that fails."""
        replicas = [self._replica(index) for index in range(len(self._replica_factories))]
        started = await asyncio.gather(*(replica.start() for replica in replicas), return_exceptions=True)
        for failure in started:
            if failure is not None:
                for replica in replicas:  # the threads of the others must end
                    replica.close()
                raise failure
        self._replicas = dict(enumerate(replicas))
        self._feeders = [asyncio.create_task(self._feed(index)) for index in self._replicas]

    async def measure_plan_again(self) -> WorkerPlan | None:
        """Measure the compute plan on the first replica, as `BatchRunner.change_plan` does, and use the result on all.

        Returns the plan in use, None if the measurement was stopped or disturbed. Raises the errors of the module.
        """
        first, *rest = self._replicas.values()
        plan = await first.change_plan(None)
        if plan is not None:
            await asyncio.gather(*(replica.change_plan(plan) for replica in rest))
        return plan

    def stop_measuring(self) -> None:
        """End a measurement of the compute plan after its present pass."""
        for replica in self._replicas.values():
            replica.stop_measuring()

    async def drain(self) -> None:
        """Accept no more items, finish the accepted ones, end the replicas."""
        self.draining.set()
        self.batcher.close()
        await asyncio.gather(*self._feeders)
        # It refers to this object, and a cycle would keep the weights in memory until the next garbage collection.
        self.on_lost = self.on_workers = lambda: None

    async def end(self, grace_s: float, error: UnavailableError) -> None:
        """Drain within the grace; then fail the items that are left with the error, and return.

        A forward pass that hangs keeps its thread, because Python cannot end one.
        """
        drain = asyncio.create_task(self.drain())
        if not (await asyncio.wait({drain}, timeout=grace_s))[1]:
            drain.result()
            return
        self.abort(error)
        if (await asyncio.wait({drain}, timeout=_LAST_BATCH_S))[1]:
            logger.error("backbone %s: a forward pass does not end; its batch is abandoned", self.description.name)
            for replica in self._replicas.values():
                replica.abandon(error)
            await asyncio.wait({drain}, timeout=_LAST_BATCH_S)
        drain.cancel()

    def abort(self, error: UnavailableError) -> None:
        """Accept no more items and fail the queued ones; running batches are finished."""
        self.draining.set()
        self.batcher.close(error)

    def _replica(self, index: int) -> BatchRunner:
        return self._replica_factories[index](f"{self.description.name}-{index}")

    async def _feed(self, index: int) -> None:
        """Feed a replica; replace it if it is lost."""
        while True:
            replica = self._replicas[index]
            try:
                await Feeder(self.batcher, replica, self._settle_batch).run()
            except UnavailableError as lost:
                logger.warning("backbone %s: %s", self.description.name, lost)
                if self.draining.is_set() and not self.batcher.queued_items:
                    return
            else:
                replica.close()
                await replica.join()
                return
            try:
                replica = self._replica(index)
                await replica.start()
                self._replicas[index] = replica
            except Exception:
                logger.exception("backbone %s: replica %d could not be replaced", self.description.name, index)
                self._give_up()
                return

    def _settle_batch(self, batch: Sequence[Item], done: asyncio.Future[BatchReport]) -> None:
        """Give every item of a batch its outcome."""
        if isinstance(lost := done.exception(), Exception):
            self.totals.add([lost] * len(batch), 0.0)
            for item in batch:
                settle(item.done, lost)
            return
        report = done.result()
        compute_s = report.finished - report.started
        outcomes = outcomes_of(batch, report, self.description)
        failed = self.totals.failed
        self.totals.add(outcomes, compute_s)
        if self.totals.failed == failed:
            self.batcher.queue.budget.add(sum(item.cost for item in batch), compute_s)
        for item, outcome in zip(batch, outcomes, strict=True):
            settle(item.done, outcome)
        for listener in self.on_batch:
            listener(batch, outcomes, compute_s)

    def _give_up(self) -> None:
        """Give up one replica; if it was the last one, fail all queued items."""
        if all(feeder.done() for feeder in self._feeders if feeder is not asyncio.current_task()):
            self.abort(UnavailableError("the replicas were lost and could not be replaced: try another server"))
            self.on_lost()


def _in_thread(factory: Callable[[], Compute], name: str) -> BatchRunner:
    return Replica(factory, name=name)

"""Keeps the worker of one replica running: starts it, prepares it, and replaces it when it has died."""

from __future__ import annotations

import logging
import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midrib.server._engine.compute import WorkerPlan
from midrib.server._worker.messages import Prepared
from midrib.server._worker.priority import raise_priority
from midrib.server._worker.process import WorkerProcess, WorkerSpec
from midrib.server._worker.shared_buffer import new_shared_buffer
from midrib.server._worker.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

# The most batches that a worker has at a time: one is copied in, one computes, one is copied out.
_MAX_DEPTH = 3
# Further buffers, whose rows are being sent while the worker has that number of batches.
_SPARE_BUFFERS = 2
# Seconds before each attempt to replace a dead worker.
_BACK_OFF_S = (0.0, 0.5, 2.0)
# Seconds before further attempts if the system refused a descriptor or a process: clients may use up all descriptors
# for some time.
_SHORTAGE_BACK_OFF_S = (5.0, 10.0, 20.0, 30.0)
# Each start and each death of a worker takes the cores of the machine for some milliseconds, also from other backbones.
# So a replica may start this number of workers at once, then one each time this number of seconds has passed.
_START_BURST = 5
_START_INTERVAL_S = 2.0
# If several workers in sequence end within this time without a batch, their own code is the reason.
_SHORT_LIFE_S = 1.0
_MAX_SHORT_LIVES = 10


class WorkerLostError(RuntimeError):
    """A worker died and could not be replaced, which ends its replica."""


@dataclass(frozen=True)
class WorkerState:
    """The process of a replica. running: False while it is being replaced.  pid: the last process's id."""

    running: bool
    pid: int

    def memory_bytes(self) -> int:
        """Return the resident memory; 0 if it is unknown."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * mmap.PAGESIZE


class SharedPlan:
    """The compute plan of a device's replicas: the first one measures it, alone, and the others get it.

    worker_plan: None until it is measured.  restarts: how many workers of the device were replaced.
    """

    def __init__(self) -> None:
        self.worker_plan: WorkerPlan | None = None
        self.restarts = 0
        self._measuring = threading.Lock()

    def prepare(self, worker: WorkerProcess) -> Prepared:
        """Prepare a worker; one at a time, because a second one beside it would spoil the measurement."""
        with self._measuring:
            plan = self.worker_plan
            if plan is None:
                raise_priority(worker.pid)
            prepared: Prepared = worker.call(None if plan is None else plan.fields)
            self.worker_plan = plan or prepared.plan
        return prepared


class Supervisor:
    """The worker of one replica, and its successors.

    starts_at: when the next one may start, on time.monotonic; 0 if it may start now.
    sleep: waits before another attempt to replace it.
    """

    def __init__(self, spec: WorkerSpec, plan: SharedPlan, *, sleep: Callable[[float], object] | None = None) -> None:
        self.name = spec.name
        self.restarts = 0
        self.starts_at = 0.0
        self.buffers = [new_shared_buffer() for _ in range(_MAX_DEPTH + _SPARE_BUFFERS)]
        self._spec = spec
        self._plan = plan
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._worker: WorkerProcess | None = None
        self._ready = False
        self._ready_since = 0.0
        self._short_lives = 0
        self._starts = TokenBucket(_START_BURST, _START_INTERVAL_S)
        self._replacing = threading.Lock()

    def load(self) -> Any:
        """Start a worker and have it load; return its description.

        Raises the errors of the loader, WorkerDiedError if the process ended instead.
        """
        return self._start()[1]

    def prepare(self) -> Prepared:
        """Make the worker ready for batches; loads first if necessary. Raises as `load` does."""
        worker = self._worker
        if worker is None or worker.dead:
            worker, _ = self._start()
        prepared = self._plan.prepare(worker)
        self._mark_ready(worker)
        return prepared

    def worker(self, *, was_idle: bool = False) -> WorkerProcess:
        """Return the running worker; replaces a dead one. Raises WorkerLostError if that fails.

        was_idle: whether the dead one had no batch.
        """
        with self._replacing:
            worker = self._worker
            if worker is not None and not worker.dead:
                return worker
            self._count_life(was_idle=was_idle)
            return self._replaced()

    def state(self) -> WorkerState:
        """Return the state of the worker."""
        worker = self._worker
        return WorkerState(False, 0) if worker is None else WorkerState(self._ready and not worker.dead, worker.pid)

    def close(self) -> None:
        """End the worker, also while it computes: its batch then ends with WorkerLostError."""
        self._closed.set()
        if self._worker is not None:
            self._worker.kill()

    def _start(self) -> tuple[WorkerProcess, Any]:
        self._ready = False
        worker = self._worker = WorkerProcess(self._spec, self.buffers)
        if self._closed.is_set():  # `close` may have ended the worker before this one
            worker.kill()
        return worker, worker.call(self._spec.request)

    def _mark_ready(self, worker: WorkerProcess) -> None:
        raise_priority(worker.pid)
        self._ready = True
        self._ready_since = time.monotonic()

    def _count_life(self, *, was_idle: bool) -> None:
        """Raise WorkerLostError if too many workers in sequence ended soon and without a batch."""
        short = was_idle and time.monotonic() - self._ready_since < _SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if short else 0
        if self._short_lives >= _MAX_SHORT_LIVES:
            raise WorkerLostError(f"{self._short_lives} workers of {self.name} in sequence ended without a batch")

    def _pause(self, delay_s: float) -> None:
        """Wait before a start, for `delay_s` or until the replica may start a worker again. Ends with `close`."""
        now = time.monotonic()
        limited_s = self._starts.take(now)
        if limited_s > delay_s:
            logger.warning("worker %s: its workers die too often: the next one starts in %.1f s", self.name, limited_s)
        self.starts_at = now + max(delay_s, limited_s)
        self._sleep(max(delay_s, limited_s))
        self.starts_at = 0.0

    def _replaced(self) -> WorkerProcess:
        """Return a new worker. Raises WorkerLostError if none starts."""
        failure: Exception | None = None
        for attempt, delay_s in enumerate((*_BACK_OFF_S, *_SHORTAGE_BACK_OFF_S)):
            if attempt >= len(_BACK_OFF_S) and not isinstance(failure, OSError):
                break
            self._pause(delay_s)
            if self._closed.is_set():
                break
            self.restarts += 1
            self._plan.restarts += 1
            try:
                worker, _ = self._start()
                self._plan.prepare(worker)
                self._mark_ready(worker)
            except Exception as error:
                failure = error
                if self._closed.is_set():
                    break
                logger.exception("worker %s: its successor could not be started", self.name)
            else:
                logger.warning("worker %s: replaced, restart %d", self.name, self.restarts)
                return worker
        raise WorkerLostError(f"the worker of {self.name} died and could not be replaced") from failure

"""Keeps the worker of one replica running: starts it, prepares it, and replaces it when it has died."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from midrib.server._worker.messages import Prepared, WorkerPlan
from midrib.server._worker.process import WorkerProcess, WorkerSpec
from midrib.server._worker.shared_buffer import new_shared_buffer

logger = logging.getLogger(__name__)

# The most batches that a worker has use for: one is copied in, one computes, one is copied out.
MAX_DEPTH = 3
# Seconds before each attempt to replace a dead worker.
_BACK_OFF_S = (0.0, 0.5, 2.0)


class WorkerLostError(RuntimeError):
    """A worker died and could not be replaced, which ends its replica."""


class SharedPlan:
    """The compute plan of a device's replicas: the first one measures it, alone, and the others are told.

    restarts: how many workers of the device were replaced.
    """

    def __init__(self) -> None:
        self.plan: WorkerPlan | None = None
        self.restarts = 0
        self._measuring = threading.Lock()

    def prepare(self, worker: WorkerProcess) -> Prepared:
        """Prepare a worker; one at a time, because a second one beside it would spoil the measurement."""
        with self._measuring:
            prepared: Prepared = worker.call(None if self.plan is None else self.plan.fields)
            self.plan = prepared.plan
        return prepared


class Supervisor:
    """The worker of one replica, and its successors.

    sleep: waits before another attempt to replace it.
    """

    def __init__(self, spec: WorkerSpec, plan: SharedPlan, *, sleep: Callable[[float], object] | None = None) -> None:
        self.name = spec.name
        self.restarts = 0
        self.buffers = [new_shared_buffer() for _ in range(MAX_DEPTH)]
        self._spec = spec
        self._plan = plan
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._worker: WorkerProcess | None = None
        self._replacing = threading.Lock()

    def load(self) -> Any:
        """Start a worker and have it load; return its description.

        Raises what the loader raised, WorkerDiedError if the process ended instead.
        """
        return self._start()[1]

    def prepare(self) -> Prepared:
        """Make the worker ready for batches; loads first if necessary. Raises as `load` does."""
        worker = self._worker
        if worker is None or worker.dead:
            worker, _ = self._start()
        return self._plan.prepare(worker)

    def worker(self) -> WorkerProcess:
        """Return the running worker; replaces a dead one. Raises WorkerLostError if that fails."""
        with self._replacing:
            worker = self._worker
            return self._replaced() if worker is None or worker.dead else worker

    def close(self) -> None:
        """End the worker, also while it computes: its batch then ends with WorkerLostError."""
        self._closed.set()
        if self._worker is not None:
            self._worker.kill()

    def _start(self) -> tuple[WorkerProcess, Any]:
        worker = self._worker = WorkerProcess(self._spec, self.buffers)
        if self._closed.is_set():  # `close` may have ended the worker before this one
            worker.kill()
        return worker, worker.call(self._spec.request)

    def _replaced(self) -> WorkerProcess:
        failure: Exception | None = None
        for delay_s in _BACK_OFF_S:
            self._sleep(delay_s)
            if self._closed.is_set():
                break
            self.restarts += 1
            self._plan.restarts += 1
            try:
                worker, _ = self._start()
                self._plan.prepare(worker)
            except Exception as error:
                failure = error
                if self._closed.is_set():
                    break
                logger.exception("worker %s: its successor could not be started", self.name)
            else:
                logger.warning("worker %s: replaced, restart %d", self.name, self.restarts)
                return worker
        raise WorkerLostError(f"the worker of {self.name} died and could not be replaced") from failure

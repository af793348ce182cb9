"""The `Compute` whose batches run in a worker process. numpy only.

A batch whose worker died is run again, one item after the other: an item that is alone when a worker dies twice is
refused, and every other item gets its rows, since a forward pass has no effect but its result.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midrib.server._compute.joining import join_into, joined_shape, split_rows
from midrib.server._engine.compute import Arrays
from midrib.server._worker.messages import BatchReply, BatchRequest, Prepared, Region
from midrib.server._worker.process import BatchFailedError, BatchTooLongError, WorkerDiedError, WorkerProcess
from midrib.server._worker.supervision import Supervisor
from midrib.wire import Array, InternalError, UnavailableError

logger = logging.getLogger(__name__)

_ALIGNMENT = 64
# Of one feature, at most: the size of a float64.
_FEATURE_BYTES = 8
# An item is refused after so many deaths of workers that computed nothing else.
_DEATHS_OF_AN_ITEM = 2
# After so many deaths by one batch, its other items are left to their callers: each costs the start of a process.
_DEATHS_OF_A_BATCH = 8


class WorkerCompute:
    """Runs batches on the supervised worker of one replica.

    prepared: the properties of its first worker.  max_batch_s: a batch that takes longer costs the worker its life.
    """

    def __init__(self, supervisor: Supervisor, prepared: Prepared, *, max_batch_s: float) -> None:
        self.depth = prepared.depth
        self.supervisor = supervisor
        self._prepared = prepared
        self._max_batch_s = max_batch_s
        self._numbers = itertools.count()
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(self.depth):
            self._free.put(index)
        # Held to launch, and for a whole recovery: an item that is run alone must be alone.
        self._launching = threading.RLock()

    def stage(self, batch: Sequence[Arrays]) -> StagedBatch:
        """Write a batch into a shared buffer; waits for a free one. Raises ValueError for arrays that do not fit."""
        buffer = self._free.get()
        try:
            return StagedBatch(self, batch, self._staged(buffer, batch))
        except BaseException:
            self._free.put(buffer)
            raise

    def launch(self, staged: StagedBatch) -> LaunchedBatch:
        """Hand a staged batch to the worker; waits while another batch is being recovered."""
        try:
            with self._launching:
                worker = self.supervisor.worker()
                worker.send_batch(staged.request)
        except BaseException:
            self._free.put(staged.request.buffer)
            raise
        return LaunchedBatch(self, staged, worker)

    def finish(self, launched: LaunchedBatch) -> list[Array | Exception]:
        """Return the rows of each item, or the error of one that ends workers.

        Raises BatchFailedError with what the module raised, WorkerLostError if no worker can be started.
        """
        staged, request = launched.staged, launched.staged.request
        try:
            return [*self._rows(launched.worker, request, staged.batch)]
        except WorkerDiedError as death:
            logger.warning("%s: running the %d items of its batch one by one", death.explained(), len(staged.batch))
            return self._recover(request.buffer, staged.batch, death)
        finally:
            self._free.put(request.buffer)

    def close(self) -> None:
        """End the worker."""
        self.supervisor.close()

    def _staged(self, buffer: int, batch: Sequence[Arrays]) -> BatchRequest:
        """Write the arrays into a buffer; return the message about them."""
        shapes = [joined_shape(arrays) for arrays in zip(*batch, strict=True)]
        inputs, offset = [], 0
        for shape, dtype in zip(shapes, self._prepared.dtypes, strict=False):
            inputs.append(Region(offset, dtype, shape))
            offset = _aligned(offset + _bytes(shape, np.dtype(dtype).itemsize))
        result_bytes = _bytes(self._result_shape(inputs), _FEATURE_BYTES)
        shared = self.supervisor.buffers[buffer]
        shared.grow(offset + result_bytes)
        for region, arrays in zip(inputs, zip(*batch, strict=True), strict=True):
            join_into(shared.view(region.offset, region.dtype, region.shape), arrays)
        return BatchRequest(next(self._numbers), buffer, tuple(inputs), offset, result_bytes)

    def _result_shape(self, inputs: Sequence[Region]) -> tuple[int, ...]:
        return (inputs[0].shape[0], self._prepared.width) if len(inputs) == 1 else inputs[0].shape

    def _rows(self, worker: WorkerProcess, request: BatchRequest, batch: Sequence[Arrays]) -> list[Array]:
        reply = worker.receive(request.number, limit_s=self._max_batch_s)
        rows = self._checked(reply, request)
        return split_rows(rows, [len(arrays[0]) for arrays in batch])

    def _checked(self, reply: BatchReply, request: BatchRequest) -> Array:
        """Return a copy of the result, which the next batch overwrites."""
        if reply.rows is None:
            raise BatchFailedError(f"the module raised in its worker:\n{reply.error}")
        expected = self._result_shape(request.inputs)
        if reply.rows.shape != expected or reply.rows.offset != request.result_offset:
            raise BatchFailedError(f"the module returned {list(reply.rows.shape)}, expected {list(expected)}")
        shared = self.supervisor.buffers[request.buffer]
        return shared.view(reply.rows.offset, reply.rows.dtype, reply.rows.shape).copy()

    def _recover(self, buffer: int, batch: Sequence[Arrays], death: WorkerDiedError) -> list[Array | Exception]:
        """Return the results of a batch that lost its worker, each item computed alone."""
        counted = int(len(batch) == 1 or isinstance(death, BatchTooLongError))  # two time limits are enough to wait
        deaths, results = _Deaths(in_all=1, alone=counted), list[Array | Exception]()
        with self._launching:
            for arrays in batch:
                deaths.alone = counted
                results.append(self._alone(buffer, arrays, deaths))
        return results

    def _alone(self, buffer: int, arrays: Arrays, deaths: _Deaths) -> Array | Exception:
        while deaths.in_all < _DEATHS_OF_A_BATCH:
            worker = self.supervisor.worker()
            try:
                request = self._staged(buffer, [arrays])
                worker.send_batch(request)
                return self._rows(worker, request, [arrays])[0]
            except WorkerDiedError as death:
                deaths.in_all, deaths.alone = deaths.in_all + 1, deaths.alone + 1
                if deaths.alone >= _DEATHS_OF_AN_ITEM:
                    return _refused(death)
            except Exception as error:  # noqa: BLE001 - the module's answer to this item
                return error
        return UnavailableError(
            "the worker that computed this item's batch died repeatedly: try again", retry_after=1.0
        )


@dataclass(slots=True)
class StagedBatch:
    """A batch in a shared buffer. batch: its arrays, to run it again."""

    compute: WorkerCompute
    batch: Sequence[Arrays]
    request: BatchRequest

    def launch(self) -> LaunchedBatch:
        """Hand it to the worker."""
        return self.compute.launch(self)


@dataclass(slots=True)
class LaunchedBatch:
    """A batch that a worker computes."""

    compute: WorkerCompute
    staged: StagedBatch
    worker: WorkerProcess
    ready: bool = False

    def finish(self) -> list[Array | Exception]:
        """Wait for its rows."""
        return self.compute.finish(self)


@dataclass
class _Deaths:
    """Of workers: by a whole batch, and by the item that is run alone."""

    in_all: int
    alone: int


def _refused(death: WorkerDiedError) -> InternalError:
    logger.error("an item is refused because %d workers ended with it: %s", _DEATHS_OF_AN_ITEM, death.explained())
    return InternalError("the backbone's process ended each time it computed this item", reason="WORKER_DIED")


def _bytes(shape: Sequence[int], itemsize: int) -> int:
    return itemsize * int(np.prod(shape, dtype=np.int64))


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT

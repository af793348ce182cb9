"""The event loop's connection to one running worker: batches out, replies in, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from midrib.server._compute.joining import split_rows
from midrib.server._engine.compute import WorkerPlan
from midrib.server._engine.item import settle
from midrib.server._errors import ordinary_error
from midrib.server._shared_memory.memory import client_memory
from midrib.server._worker.messages import PLAN, decode_plan
from midrib.server._worker.process import BatchTooLongError, MappedMemories, WorkerDiedError, WorkerProcess
from midrib.server._worker.shared_buffer import lend
from midrib.server._worker.staging import BatchTransfer, StagedPlace
from midrib.server._worker.work import ConnectionListener, Part
from midrib.wire import Array

# The event loop copies a smaller batch itself, in less than a millisecond; a larger one would delay other calls.
_LARGE_BATCH_BYTES = 1 << 22
# Rows of this number of bytes or more are sent from the shared buffer, without a copy.
_LENT_BYTES = 1 << 16
_MAX_LOOK_S = 1.0
_STAGING = ThreadPoolExecutor(2, thread_name_prefix="staging")
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class WorkerLimits:
    """depth: the most batches that the worker has at a time.  max_batch_s: the most seconds that one may compute."""

    depth: int
    max_batch_s: float


@dataclass(slots=True)
class _Flight:
    """A part that the worker has. sent: on time.monotonic."""

    part: Part
    staged: StagedPlace
    sent: float


class WorkerConnection:
    """One running worker, from the first batch to its end. All methods are for the event loop.

    free: the indices of the shared buffers that no batch uses; the connections of a replica share it.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        transfer: BatchTransfer,
        free: list[int],
        limits: WorkerLimits,
        listener: ConnectionListener,
    ) -> None:
        self.worker = worker
        self._transfer = transfer
        self._free = free
        self._limits = limits
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._flights: dict[int, _Flight] = {}
        self._memories = MappedMemories(worker, self._end)
        self._staging = 0
        self._plan_change: asyncio.Future[WorkerPlan | None] = self._loop.create_future()
        self._last_reply = 0.0
        self._fileno = worker.fileno()
        self._loop.add_reader(self._fileno, self._receive)
        self._timer = self._loop.call_later(self._look_s, self._look)
        self._open = True

    @property
    def load(self) -> int:
        """The number of batches that it has."""
        return len(self._flights) + self._staging

    @property
    def has_room(self) -> bool:
        """Whether it takes another batch."""
        return self._open and bool(self._free) and self.load < self._limits.depth

    def send(self, part: Part) -> None:
        """Write a part into a free buffer and hand it to the worker; a large one is written by another thread."""
        buffer = self._free.pop()
        self._staging += 1
        items = part.items
        memory = self._transfer.memory_of(items)
        if memory is not None and self._memories.map(memory):
            self._write(part, buffer, lambda: self._transfer.in_place(buffer, memory, items[0]))
            return
        if sum(array.nbytes for arrays in items for array in arrays) < _LARGE_BATCH_BYTES:
            self._write(part, buffer, lambda: self._transfer.write(buffer, items))
            return
        written = self._loop.run_in_executor(_STAGING, self._transfer.write, buffer, items)
        written.add_done_callback(partial(self._on_written, part, buffer, time.monotonic()))

    def change_plan(self, plan: WorkerPlan | None) -> asyncio.Future[WorkerPlan | None]:
        """Have the worker use a compute plan, or measure it again if it is None, one at a time.

        The future gives the plan in use, or None.
        """
        self._plan_change = self._loop.create_future()
        try:
            self.worker.change_plan(plan)
        except OSError:
            self._end()
        return self._plan_change

    def stop_measuring(self) -> None:
        """End a measurement after its present pass."""
        with contextlib.suppress(OSError):  # the end of the worker is noticed elsewhere
            self.worker.stop_measuring()

    def close(self) -> list[Part]:
        """Stop listening to the worker; return the parts that it had, the oldest first."""
        if not self._open:
            return []
        self._open = False
        self._memories.close()
        self._loop.remove_reader(self._fileno)
        self._timer.cancel()
        settle(self._plan_change, None)
        flights = list(self._flights.values())
        self._flights.clear()
        self._free += [flight.staged.buffer_index for flight in flights]
        return [flight.part for flight in flights]

    def _write(self, part: Part, buffer: int, write: Callable[[], StagedPlace]) -> None:
        began = time.monotonic()
        try:
            staged = write()
        except Exception as error:  # noqa: BLE001 - it is the result of these items
            self._refuse(part, buffer, error)
        else:
            self._hand_over(part, staged, began)

    def _on_written(self, part: Part, buffer: int, began: float, written: asyncio.Future[StagedPlace]) -> None:
        if (error := written.exception()) is not None:
            self._refuse(part, buffer, ordinary_error(error, "copying a batch"))
        else:
            self._hand_over(part, written.result(), began)

    def _refuse(self, part: Part, buffer: int, error: Exception) -> None:
        self._staging -= 1
        self._free.append(buffer)
        self._listener.on_result(part, error)

    def _hand_over(self, part: Part, staged: StagedPlace, began: float) -> None:
        self._staging -= 1
        now = time.monotonic()
        part.batch.staging_s += now - began
        if not self._open:  # it ended meanwhile
            self._free.append(staged.buffer_index)
            self._listener.on_unsent(part)
            return
        number = next(_NUMBERS)
        self._flights[number] = _Flight(part, staged, now)
        try:
            self.worker.send_batch(number, staged.message)
        except OSError:
            self._end()

    def _receive(self) -> None:
        try:
            replies = self.worker.replies()
        except (EOFError, OSError):
            self._end()
            return
        except ValueError:
            self._end("sent a damaged message")
            return
        for number, reply in replies:
            self._settle(number, reply)

    def _settle(self, number: int, reply: bytes) -> None:
        if number == PLAN:
            self._on_plan(reply)
            return
        flight = self._flights.pop(number, None)
        if flight is None:
            self._end("answered a batch that it does not have")
            return
        now, batch = time.monotonic(), flight.part.batch
        batch.started = batch.started or max(flight.sent, self._last_reply)  # it computes one batch at a time
        batch.finished = self._last_reply = now
        result: Sequence[Array] | Exception
        try:
            result = self._rows(flight, reply)
        except Exception as error:  # noqa: BLE001 - it is the result of these items
            self._free.append(flight.staged.buffer_index)
            result = error
        self._listener.on_result(flight.part, result)
        self._memories.worker_has_read()

    def _on_plan(self, reply: bytes) -> None:
        try:
            settle(self._plan_change, decode_plan(reply))
        except ValueError:
            self._end("sent a damaged message")

    def _rows(self, flight: _Flight, reply: bytes) -> list[Array]:
        """Return the rows of each item, which the next batch does not overwrite; free the buffer.

        Rows of few bytes are copied, and all rows if the worker needs the buffer for its next batches. Other rows stay
        in the buffer, which is free again once they have been sent. Rows in a client's memory stay there.
        """
        staged, items = flight.staged, flight.part.items
        memory = client_memory(items[0][0]) if staged.writes_to_client else None
        if memory is not None:
            rows = staged.client_rows(memory, reply)
            self._free.append(staged.buffer_index)
            return [rows]
        rows = staged.rows(reply)
        if rows.nbytes >= _LENT_BYTES and len(self._free) + self.load >= self._limits.depth:
            lent = lend(rows, partial(self._free.append, staged.buffer_index))
            return split_rows(lent, [len(arrays[0]) for arrays in items])
        copies = self._transfer.read(staged, reply, items)
        self._free.append(staged.buffer_index)
        return copies

    @property
    def _look_s(self) -> float:
        return min(_MAX_LOOK_S, self._limits.max_batch_s / 2)

    def _look(self) -> None:
        """End the worker if its oldest batch takes too long; find out if it died without closing its channel."""
        oldest = next(iter(self._flights.values()), None)
        if oldest is not None and time.monotonic() > max(oldest.sent, self._last_reply) + self._limits.max_batch_s:
            self._end("exceeded the time limit of a batch", BatchTooLongError)
        elif self.worker.has_ended():
            self._end()
        else:
            self._timer = self._loop.call_later(self._look_s, self._look)
            if oldest is None:
                self._memories.worker_has_read()

    def _end(self, how: str = "", kind: type[WorkerDiedError] = WorkerDiedError) -> None:
        if self._open:
            self._listener.on_end(self.close(), how, kind)

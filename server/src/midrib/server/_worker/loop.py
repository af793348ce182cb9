"""The loop of a worker process: load, prepare, then one batch after the other."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from midrib.server._engine.compute import Arrays, Stop, WorkerPlan
from midrib.server._errors import text_of, traced
from midrib.server._worker.channel import Channel
from midrib.server._worker.messages import (
    ERROR,
    NO_BATCH,
    NUMBER,
    ROWS,
    STOP_MEASURING,
    BatchLocation,
    MemoryChange,
    Prepared,
    Region,
    decode_plan,
    encode_plan,
)
from midrib.server._worker.shared_buffer import MappedMemory, SharedBuffer, Viewable
from midrib.wire import Array

logger = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_ERROR_CHARS = 8192
_MAX_ERROR_BYTES = 1 << 16
_REMEMBERED = 256
# The exit status of a worker that cannot compute any more.
BROKEN_STATUS = 70
# A module may replace `os._exit`; this reference stays.
_exit = os._exit
_NO_BATCH = NUMBER.pack(NO_BATCH)


class Running(Protocol):
    """A batch that the device has. ready: whether `rows` returns at once."""

    ready: bool

    def rows(self) -> Array:
        """Wait for the rows [rows, num_features], which may share the arrays' memory. Raises the module's error."""
        ...


class Bound(Protocol):
    """A pass over arrays that stay in one place, whose contents change from batch to batch."""

    def launch(self) -> Running:
        """Start it; raises the errors of the module."""
        ...


class Passes(Protocol):
    """The passes of a backbone that is ready to serve."""

    def bind(self, arrays: Arrays) -> Bound:
        """Return a pass over these arrays [rows, ...]."""
        ...

    def measure_again(self, stop: Stop) -> WorkerPlan | None:
        """Measure the compute plan again, as `Calibrated` of the engine says."""
        ...

    def use_plan(self, plan: WorkerPlan) -> None:
        """Compute by a plan from now on."""
        ...

    def probe(self) -> object:
        """Compute an example, as at load. Raises if this process cannot compute any more."""
        ...


class Hosted(Protocol):
    """A loaded backbone in a worker. info: its properties for the server's process; it must be picklable."""

    info: Any

    def prepare(self, plan: dict[str, Any] | None) -> tuple[Passes, Prepared]:
        """Return the passes, ready to serve.

        plan: the compute plan's fields; None if it is to be measured.
        """
        ...


def run(channel: Channel, buffers: Sequence[SharedBuffer], entry: Callable[[dict[str, Any]], Hosted]) -> None:
    """Answer two requests, then batches; returns after the first request that failed.

    Raises EOFError once the other end is closed.
    """
    request = json.loads(channel.receive())
    hosted = _attempt(channel, lambda: entry(request))
    if hosted is None:
        return
    channel.send(pickle.dumps((False, hosted.info)))
    plan = json.loads(channel.receive())
    prepared = _attempt(channel, lambda: hosted.prepare(plan))
    if prepared is None:
        return
    passes, properties = prepared
    channel.send(pickle.dumps((False, properties)))
    _Batches(channel, buffers, passes).run()


class _Batches:
    """Runs batches in their order; those of a GPU are finished on a second thread, so that the next one is launched.

    After a pass that failed, an example is computed. If that fails too, the fault is not in the items: after an illegal
    access on a GPU, for example, every pass of the process fails. The process ends then, and is replaced.
    """

    def __init__(self, channel: Channel, buffers: Sequence[SharedBuffer], passes: Passes) -> None:
        self._channel = channel
        self._buffers: dict[int, Viewable] = dict(enumerate(buffers))
        self._passes = passes
        self._launching = threading.Lock()
        self._places: dict[bytes, _BoundPlace] = {}
        self._finishing = ThreadPoolExecutor(1, thread_name_prefix="finishing")

    def run(self) -> None:
        """Compute batches until the other end of the channel is closed: raises EOFError."""
        while True:
            message = self._channel.receive()
            number, content = message[: NUMBER.size], message[NUMBER.size :]
            if number == _NO_BATCH:
                self._change_memory(MemoryChange.decode(content))
            elif number == STOP_MEASURING:
                self._change_plan(content)
            else:
                self._compute(number, content)

    def _compute(self, number: bytes, place: bytes) -> None:
        """Start a batch, and finish it if the device is done; while the worker waits, nothing keeps its memory."""
        try:
            bound = self._places.get(place) or self._remember(place)
            with self._launching:
                running = bound.bound.launch()
        except Exception as error:  # noqa: BLE001 - a module may raise anything
            self._fail(number, error)
            return
        if running.ready:
            self._finish(number, bound, running)
        else:
            self._finishing.submit(self._finish, number, bound, running)

    def _change_plan(self, content: bytes) -> None:
        """Use a plan, or measure it again; a message without content has only ended a measurement."""
        if not content:
            return
        plan = decode_plan(content)
        try:
            if plan is None:
                plan = self._passes.measure_again(self._channel.has_arrivals)
            else:
                self._passes.use_plan(plan)
        except Exception:  # a module may raise anything
            logger.exception("the compute plan could not be measured again")
            plan = None
        self._channel.send(encode_plan(plan))

    def _change_memory(self, change: MemoryChange) -> None:
        """Map a client's memory, or unmap it with its last array.

        If this process has no descriptor or no memory left, the batches in that memory fail.
        """
        if change.mapped:
            with contextlib.suppress(IndexError, OSError):
                self._buffers[change.number] = MappedMemory(self._channel.descriptors.popleft(), change.size_bytes)
            return
        self._buffers.pop(change.number, None)
        self._places = {key: bound for key, bound in self._places.items() if bound.place.buffer != change.number}

    def _remember(self, message: bytes) -> _BoundPlace:
        if len(self._places) >= _REMEMBERED:
            self._places.clear()
        place = BatchLocation.decode(message)
        buffer, result_buffer = self._buffers[place.buffer], self._buffers[place.result_buffer]
        try:
            arrays = tuple(buffer.view(region.offset, region.dtype, region.shape) for region in place.inputs)
            bound = _BoundPlace(place, result_buffer, self._passes.bind(arrays))
        except Exception as error:  # no memory, no descriptor, or a module that has replaced a function of a library
            _end_broken(error)
            raise
        self._places[message] = bound
        return bound

    def _finish(self, number: bytes, bound: _BoundPlace, running: Running) -> None:
        try:
            rows = running.rows()
            if self._channel.closed:  # a fork that has left the module's code: this place may belong to a later batch
                _exit(0)
            reply = bound.write(rows)
        except Exception as error:  # noqa: BLE001 - a GPU reports its faults late
            self._fail(number, error)
        else:
            self._channel.send(number + reply)

    def _fail(self, number: bytes, error: Exception) -> None:
        try:
            with self._launching:
                self._passes.probe()
        except Exception:  # noqa: BLE001 - a module may raise anything
            _end_broken(error)
        self._channel.send(number + ERROR + _traced_text(error).encode(errors="replace"))


class _BoundPlace:
    """A place in shared memory with its pass, and with the view for its rows. buffer: the memory of the rows."""

    def __init__(self, place: BatchLocation, buffer: Viewable, bound: Bound) -> None:
        self.bound = bound
        self.place = place
        self._buffer = buffer
        self._result: Array = np.empty(0)
        self._reply = b""

    def write(self, rows: Array) -> bytes:
        """Write the rows [rows, num_features] to their place; return the reply, without its number.

        Raises ValueError if they do not fit.
        """
        if rows.shape != self._result.shape or rows.dtype != self._result.dtype:
            self._make_room(rows)
        self._result[...] = rows
        return self._reply

    def _make_room(self, rows: Array) -> None:
        """Move the place for the rows [rows, num_features]. Raises ValueError if they do not fit."""
        if rows.nbytes > self.place.result_bytes:
            raise ValueError(f"the module returned {rows.dtype.name} {list(rows.shape)}, more than its batch can give")
        region = Region(self.place.result_offset, rows.dtype.name, rows.shape)
        try:
            self._reply = ROWS + region.encode()
            self._result = self._buffer.view(region.offset, region.dtype, region.shape)
        except Exception as error:  # as in `_Batches._remember`
            _end_broken(error)
            raise


def _end_broken(error: Exception) -> None:
    """Log the error and end this process. The server replaces it, and has its items computed again."""
    logger.error("the worker cannot compute any more:\n%s", _traced_text(error))
    _exit(BROKEN_STATUS)


def _traced_text(error: Exception) -> str:
    """Return the end of an error's traceback: a module's message may have megabytes."""
    return "".join(traceback.format_exception(error))[-_MAX_ERROR_CHARS:]


def _attempt(channel: Channel, work: Callable[[], T]) -> T | None:
    """Return the result of the work; None if it failed, which is answered."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - it is sent to the server's process
        if traced(error) is not None:  # the server logs the sentence of any other error
            logger.error("the worker cannot serve:\n%s", _traced_text(error))  # noqa: TRY400 - shortened
        channel.send(pickle.dumps((True, _portable(error))))
        return None


def _portable(error: Exception) -> Exception:
    """Return an error that the server's process can read: the same, or one with the beginning of its message."""
    with contextlib.suppress(Exception):
        pickled = pickle.dumps(error)
        if len(pickled) <= _MAX_ERROR_BYTES:
            pickle.loads(pickled)  # noqa: S301 - pickled by this process
            return error
    return RuntimeError(f"{type(error).__name__}: {text_of(error)[:_MAX_ERROR_CHARS]}")

"""The loop of a worker process: load, prepare, then one batch after the other."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from midrib.server._engine.replica import Compute, Launched
from midrib.server._errors import traced
from midrib.server._worker.channel import Channel
from midrib.server._worker.messages import BatchReply, BatchRequest, Prepared, Region
from midrib.server._worker.shared_buffer import SharedBuffer

logger = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_ERROR_CHARS = 8192


class Hosted(Protocol):
    """What a worker holds. info: what the server's process has to know of it; it must be picklable."""

    info: Any

    def prepare(self, plan: dict[str, Any] | None) -> tuple[Compute, Prepared]:
        """Return the compute, ready to serve. plan: the compute plan's fields; None if it is to be measured."""
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
    compute, properties = prepared
    channel.send(pickle.dumps((False, properties)))
    _Batches(channel, buffers, compute).run()


class _Batches:
    """Runs batches in their order; those of a GPU are finished on a second thread, so that the next one is launched."""

    def __init__(self, channel: Channel, buffers: Sequence[SharedBuffer], compute: Compute) -> None:
        self._channel = channel
        self._buffers = buffers
        self._compute = compute
        self._finishing = ThreadPoolExecutor(1, thread_name_prefix="finishing")

    def run(self) -> None:
        while True:
            request = BatchRequest.decode(self._channel.receive())
            try:
                launched = self._launch(request)
            except Exception as error:  # noqa: BLE001 - a module may raise anything
                self._fail(request, error)
                continue
            if launched.ready:
                self._finish(request, launched)
            else:
                self._finishing.submit(self._finish, request, launched)

    def _launch(self, request: BatchRequest) -> Launched:
        buffer = self._buffers[request.buffer]
        arrays = tuple(buffer.view(region.offset, region.dtype, region.shape) for region in request.inputs)
        return self._compute.stage([arrays]).launch()

    def _finish(self, request: BatchRequest, launched: Launched) -> None:
        try:
            place = self._written(request, launched)
        except Exception as error:  # noqa: BLE001 - a GPU reports its faults late
            self._fail(request, error)
        else:
            self._channel.send(BatchReply(request.number, place).encode())

    def _written(self, request: BatchRequest, launched: Launched) -> Region:
        """Write the rows of a batch to their place; raises what the module raised, ValueError if they do not fit."""
        (rows,) = launched.finish()
        if isinstance(rows, Exception):
            raise rows
        if rows.nbytes > request.result_bytes:
            raise ValueError(f"the module returned {rows.dtype.name} {list(rows.shape)}, more than its batch can give")
        place = Region(request.result_offset, rows.dtype.name, rows.shape)
        self._buffers[request.buffer].view(place.offset, place.dtype, place.shape)[...] = rows
        return place

    def _fail(self, request: BatchRequest, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))[-_MAX_ERROR_CHARS:]
        self._channel.send(BatchReply(request.number, error=text).encode())


def _attempt(channel: Channel, work: Callable[[], T]) -> T | None:
    """Return the result of the work; None if it failed, which is answered."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - it is sent to the server's process
        logger.error("the worker cannot serve: %s", error, exc_info=traced(error))  # noqa: TRY400 - maybe untraced
        channel.send(pickle.dumps((True, _portable(error))))
        return None


def _portable(error: Exception) -> Exception:
    """Return an error that the server's process can read: the same, or one with its words."""
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what was just pickled
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")

"""Live values for the page, as server-sent events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiohttp import web

from midrib.server._admission.tokens import Scope
from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._console.measures import MeasuredInterval, Reading, read
from midrib.server._console.overview import overview, seen_by
from midrib.server._http.call import CURRENT_CALL, HttpCall
from midrib.wire import MidribError, OverloadedError

MAX_STREAMS = 32
MAX_STREAMS_OF_A_TOKEN = 8
# Every call over HTTP ends after a minute: a stream ends before, and the page opens the next one.
_LONGEST_S = 45.0
_INTERVAL_S = 2.0
# A stream ends this long before its call does.
_MARGIN_S = 1.0
# Rates and quantiles are those of this time.
_WINDOW_S = 10.0
_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Events:
    """Streams the load of the server to a bounded number of pages.  interval_s: the time between two events."""

    def __init__(self, embedder: RequestEmbedder, *, interval_s: float = _INTERVAL_S) -> None:
        self._embedder = embedder
        self._catalogue = embedder.catalogue
        self._interval_s = interval_s
        self._open: Counter[Hashable] = Counter()
        # All streams share them, so that a page gets the same values when it opens its next stream.
        self._readings: deque[Reading] = deque()
        self._overview: dict[str, Any] = {}

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Answer events until the client leaves, the server stops, or the time of a call ends.

        Raises OverloadedError if too many streams are open.
        """
        call = CURRENT_CALL.get()
        call.begin()
        with self._counted(call.caller.flow):
            response = web.StreamResponse(headers=_HEADERS)
            with suppress(ConnectionError):  # the client has left
                await response.prepare(request)
                await self._send(request, response, call)
            return response

    @contextmanager
    def _counted(self, flow: Hashable) -> Iterator[None]:
        """Count an event stream while it is open. Raises OverloadedError for too many."""
        if self._open.total() >= MAX_STREAMS or self._open[flow] >= MAX_STREAMS_OF_A_TOKEN:
            raise OverloadedError(
                f"{self._open.total()} event streams are open, {self._open[flow]} of them from this caller; at most "
                f"{MAX_STREAMS} and {MAX_STREAMS_OF_A_TOKEN} are served: close other pages of the console",
                retry_after=_LONGEST_S,
            )
        self._open[flow] += 1
        try:
            yield
        finally:
            self._open[flow] -= 1
            self._open += Counter()  # drop the callers that have no stream

    async def _send(self, request: web.Request, response: web.StreamResponse, call: HttpCall) -> None:
        """Write events until the stream ends; close the connection of a client that then has not read them."""
        left_s = math.inf if call.caller.deadline is None else call.caller.deadline - time.monotonic() - _MARGIN_S
        end = time.monotonic() + min(_LONGEST_S, left_s)
        sending = asyncio.ensure_future(self._write_all(response, call, end=end))
        stopping = asyncio.ensure_future(self._catalogue.closing.wait())
        try:
            await asyncio.wait(
                {sending, stopping}, timeout=end - time.monotonic() + _MARGIN_S / 2, return_when=asyncio.FIRST_COMPLETED
            )
            if not sending.done():
                await asyncio.wait({sending}, timeout=_MARGIN_S / 2)
            if sending.done():
                await sending
            elif request.transport is not None:
                request.transport.abort()
        finally:
            sending.cancel()
            stopping.cancel()

    async def _write_all(self, response: web.StreamResponse, call: HttpCall, *, end: float) -> None:
        await self._write(response, call)
        while time.monotonic() + self._interval_s <= end and not await self._closing() and _may_read(call):
            await self._write(response, call)

    async def _write(self, response: web.StreamResponse, call: HttpCall) -> None:
        event = json.dumps(seen_by(self._latest(), call.caller.tenant))
        await response.write(f"data: {event}\n\n".encode())

    def _latest(self) -> dict[str, Any]:
        """Return the overview of the last reading, which all streams share; take a reading unless it is recent."""
        if not self._readings or time.monotonic() - self._readings[-1].at > self._interval_s / 2:
            self._readings.append(read(self._catalogue.metrics.registry))
            while self._readings[-1].at - self._readings[0].at > _WINDOW_S:
                self._readings.popleft()
            self._overview = overview(self._embedder, MeasuredInterval(self._readings[0], self._readings[-1]))
        return self._overview

    async def _closing(self) -> bool:
        """Wait for an interval, or until the server stops; return whether it stops."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._catalogue.closing.wait(), self._interval_s)
        return self._catalogue.closing.is_set()


def _may_read(call: HttpCall) -> bool:
    """Return whether the token of a stream is still valid, because it may be withdrawn meanwhile."""
    try:
        if call.caller.tenant is not None:
            call.caller.tenant.require(Scope.READ)
    except MidribError:
        return False
    return True

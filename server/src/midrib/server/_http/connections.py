"""The connections of HTTP clients: the answers that no middleware sees, and the end of silent connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from midrib.server._http.errors import logger, status_response

# Browsers must not guess that an answer is a page. By default, aiohttp sends its version and Python's.
HEADERS = {"X-Content-Type-Options": "nosniff", "Server": "midrib"}
# How many bytes of a body aiohttp parses in one step: in chunks of one byte, these take a few milliseconds.
_READ_BYTES = 2**14
_MESSAGES = {
    HTTPStatus.BAD_REQUEST: "could not read the request as HTTP/1.1: check its first line, its headers and its length",
    HTTPStatus.EXPECTATION_FAILED: "the header Expect is not supported, except for 100-continue: leave it out",
}
# How often progress is checked within the time that a client may read nothing.
_CHECKS = 4


class HttpConnection(web.RequestHandler):
    """A connection. Its early refusals have the form and the headers of all others, and are counted.

    server: the application's server.  refused: called with the reason of each early refusal.
    """

    __slots__ = ("__weakref__", "_refused")

    def __init__(self, server: web.Server, refused: Callable[[str], None], **options: Any) -> None:
        options |= {"access_log": None, "logger": logger, "auto_decompress": False, "read_bufsize": _READ_BYTES}
        super().__init__(server, **options)
        self._refused = refused

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that cannot be read, and close the connection after it."""
        super().handle_error(request, status, exc, message)  # logs the error
        return self._refusal(HTTPStatus(status))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer. An HTTPException has passed no middleware: its request has a wrong header `Expect`."""
        if isinstance(resp, web.HTTPException):
            resp = self._refusal(HTTPStatus(resp.status))
        return await super().finish_response(request, resp, start_time)

    def _refusal(self, status: HTTPStatus) -> web.Response:
        self._refused(status.name)
        response = status_response(status, _MESSAGES.get(status, status.phrase))
        response.headers.update(HEADERS)
        response.force_close()
        return response


class LastRequests:
    """When the last request of each connection ended.

    limit_s: how long a connection may be silent before its first request, within the headers of one, and between two.
    """

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        # Weak: a client that opens a connection for each request leaves thousands of closed ones within the limit.
        self._silent_since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    @contextmanager
    def busy(self, connection: object) -> Iterator[None]:
        """Treat a connection as not silent while one of its requests is handled."""
        self._silent_since[connection] = float("inf")
        try:
            yield
        finally:
            self._silent_since[connection] = self._clock()

    def silent(self, connections: Iterable[object]) -> list[object]:
        """Return the connections that have been silent for too long. A new connection is silent from now on."""
        now = self._clock()
        since = {connection: self._silent_since.setdefault(connection, now) for connection in connections}
        return [connection for connection in since if now - since[connection] > self._limit_s]

    async def close_silent(self, server: web.Server) -> None:
        """Close silent connections repeatedly, until cancelled."""
        while True:
            await asyncio.sleep(self._limit_s / 4)
            for connection in self.silent(server.connections):
                if isinstance(connection, web.RequestHandler):
                    connection.force_close()


async def send(request: web.Request, response: web.StreamResponse, *, max_unread_s: float) -> None:
    """Send a response, and return once the operating system has all of it.

    A client that reads nothing for max_unread_s loses its connection; one that reads slowly does not.
    """
    if request.transport is None or request.transport.is_closing():
        # The client has left. uvloop would log an error for a TLS connection whose end the handler has not learnt yet.
        return
    # With a limit of 0, sending waits until nothing is buffered in this process.
    request.transport.set_write_buffer_limits(high=0)
    sending = asyncio.ensure_future(_send(request, response))
    try:
        unsent, since = 0, time.monotonic()
        while not (await asyncio.wait({sending}, timeout=max_unread_s / _CHECKS))[0]:
            remaining = 0 if request.transport is None else request.transport.get_write_buffer_size()
            if remaining != unsent:
                unsent, since = remaining, time.monotonic()
            elif time.monotonic() - since >= max_unread_s and request.transport is not None:
                request.transport.abort()
        await sending
    finally:
        sending.cancel()


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    with suppress(ConnectionError):  # the client has left
        await response.prepare(request)
        await response.write_eof()

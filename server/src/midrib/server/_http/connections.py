"""End the connections of HTTP clients that neither send a request nor read their answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

# How often progress is checked within the time that a client may read nothing.
_CHECKS = 4


class LastRequests:
    """When the last request of each connection ended.

    limit_s: how long a connection may be silent before its first request, within the headers of one, and between two.
    """

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._silent_since: dict[object, float] = {}

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
        self._silent_since = {connection: self._silent_since.get(connection, now) for connection in connections}
        return [connection for connection, since in self._silent_since.items() if now - since > self._limit_s]

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
    if request.transport is None:
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

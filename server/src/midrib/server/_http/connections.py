"""Closes HTTP connections on which nothing happens: aiohttp waits for a first request forever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from aiohttp import web


class Connections:
    """Since when each connection has been silent.

    limit_s: how long it may be, before its first request, within its headers, or between two requests.
    """

    def __init__(self, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._silent_since: dict[object, float] = {}

    @contextmanager
    def busy(self, connection: object) -> Iterator[None]:
        """While a request of the connection is handled, it is not silent."""
        self._silent_since[connection] = float("inf")
        try:
            yield
        finally:
            self._silent_since[connection] = self._clock()

    def silent(self, connections: Iterable[object]) -> list[object]:
        """Those of all connections that have been silent for too long; one not seen before is silent from now on."""
        now = self._clock()
        self._silent_since = {one: self._silent_since.get(one, now) for one in connections}
        return [one for one, since in self._silent_since.items() if now - since > self._limit_s]

    async def close_silent(self, server: web.Server) -> None:
        """Close the silent ones again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._limit_s / 4)
            for connection in self.silent(server.connections):
                if isinstance(connection, web.RequestHandler):
                    connection.force_close()

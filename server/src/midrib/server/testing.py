"""A real server inside the process of a test: `with serving("all-minilm-l6-v2") as running: ... running.address`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from midrib.backbones import BACKBONES
from midrib.registry import AbstractRegistry
from midrib.server._server import Server
from midrib.server._settings import BackboneSettings, Settings

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

T = TypeVar("T")


class RunningServer:
    """A server whose event loop runs in another thread.

    address: "host:port".  url(name): the argument of `Task(backbone=...)`.
    """

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self._loop = loop

    @property
    def address(self) -> str:
        """The address: "127.0.0.1:port"."""
        return self.server.address

    def url(self, name: str) -> str:
        """The grpc:// URL of a backbone."""
        return f"grpc://{self.address}/{name}"

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T], *, timeout: float = 60.0) -> T:
        """Run a coroutine on the server's loop, and wait for its result."""
        return self.start(coroutine).result(timeout)


@contextmanager
def serving(
    *backbones: str | dict[str, Any],
    registry: AbstractRegistry = BACKBONES,
    tracer_provider: TracerProvider | None = None,
    **settings: Any,
) -> Iterator[RunningServer]:
    """Serve backbones on a free loopback port, ready on entry and drained on exit.

    backbones: names, or mappings with BackboneSettings' fields.
    settings: the fields of Settings. `workers` is "thread" by default, so that backbones of a test are found.
    tracer_provider: receives OpenTelemetry spans.
    Raises any error of loading.
    """
    requested = tuple(
        BackboneSettings.model_validate({"name": entry} if isinstance(entry, str) else entry) for entry in backbones
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="midrib-test-server", daemon=True)
    thread.start()
    effective = Settings(**{"port": 0, "threads": 1, "workers": "thread", "backbones": requested, **settings})
    server = Server(effective, registry=registry, tracer_provider=tracer_provider)
    running = RunningServer(server, loop)
    try:
        running.run(server.start())
        try:
            running.run(server.load(), timeout=300.0)
            yield running
        finally:
            running.run(server.stop(grace_s=10.0))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

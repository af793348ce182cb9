"""A server whose process has no file descriptor left says so, waits, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from midrib.registry import Registry
from midrib.server import Server, Settings, _descriptors
from midrib.server._descriptors import DescriptorWatch
from midrib.server._errors import public_error
from midrib.wire import OverloadedError

CLIENTS = 20


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Lower the limit of this process below what it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class FirstRecord(logging.Handler):
    """Sets an event at the first record."""

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.came.set()


async def test_the_operator_learns_that_no_descriptor_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, however long it lasts, and again after it has passed."""
    monkeypatch.setattr(_descriptors, "_LOOK_S", 0.0)
    for _ in range(2):
        first = FirstRecord()
        _descriptors.logger.addHandler(first)
        with no_descriptor_left():
            watch = DescriptorWatch()
            await first.came.wait()
            for _ in range(100):
                await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        watch.close()
        _descriptors.logger.removeHandler(first)
    assert [record.message.partition(" (")[0] for record in caplog.records] == 2 * ["no file descriptor is left"]


@pytest.mark.parametrize("port", ["address", "http_address"])
async def test_connections_without_a_descriptor_cost_one_line(test_registry: Registry, port: str) -> None:
    """On asyncio's own loop, which logs an error for each attempt to accept one. All are accepted later."""
    server = Server(Settings(port=0, http_port=0, front="asyncio", fronts=1), registry=test_registry)
    await server.start()
    failed = asyncio.Event()
    problems: list[Any] = []

    def note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        problems.append(context["message"])
        failed.set()

    asyncio.get_running_loop().set_exception_handler(note)
    host, _, number = str(getattr(server, port)).rpartition(":")
    with contextlib.ExitStack() as clients:
        waiting = [clients.enter_context(socket.create_connection((host, int(number)))) for _ in range(CLIENTS)]
        with no_descriptor_left():
            await failed.wait()
        assert problems == ["socket.accept() out of system resource"]
        for client in waiting:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            client.settimeout(20)
            assert await asyncio.to_thread(client.recv, 1)
    await server.stop(0.0)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_call_that_finds_no_descriptor_may_be_made_again(caplog: pytest.LogCaptureFixture, number: int) -> None:
    """Each such call was an internal error with a traceback in the log."""
    public = public_error(OSError(number, os.strerror(number)), "the call failed")
    assert (type(public), public.retry_after, caplog.records) == (OverloadedError, 1.0, [])

"""The services behind the gRPC server of a host: answers, errors and tokens as on a server of ours."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import AsyncIterator
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from midrib.registry import Registry
from midrib.remote import Client
from midrib.server import BackboneSettings, Server, Settings
from midrib.server._admission.tokens import Scope, new_token
from midrib.server._grpc.hosted import HostedServices
from midrib.server._grpc.interceptors import access_log
from midrib.wire import BackboneNotFoundError, InvalidInputError, MidribError, UnauthenticatedError


class NamesItsPeerWhileItRuns:
    """A context of grpcio, but that it raises where grpcio ends the process: asked for the peer of an ended call."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.runs = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def peer(self) -> str:
        assert self.runs, "peer() of a call that has ended"
        return str(self._context.peer())

    def add_done_callback(self, callback: Any) -> None:
        self._context.add_done_callback(lambda _context: callback(self))


class Host(grpc.GenericRpcHandler):
    """Accepts every call as raw bytes, and has the services answer it."""

    def __init__(self) -> None:
        self.services: HostedServices

    def make(self, *arguments: Any) -> HostedServices:
        self.services = HostedServices(*arguments)
        return self.services

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def answer(_requests: Any, context: Any) -> None:
            checked = NamesItsPeerWhileItRuns(context)
            try:
                await self.services.answer(handler_call_details.method, checked)
            finally:
                checked.runs = False

        return grpc.stream_stream_rpc_method_handler(answer)


SECRET, ENTRY = new_token("tester", [Scope.READ, Scope.EMBED])


@pytest.fixture()
async def address(test_registry: Registry, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a host whose services need a token."""
    (tmp_path / "tokens.toml").write_text(ENTRY)
    settings = Settings(
        backbones=(BackboneSettings(name="gate"),), threads=1, tokens=tmp_path / "tokens.toml", access_log=True
    )
    host = Host()
    server = Server(settings, registry=test_registry, new_grpc_server=host.make)
    await server.start()
    await server.load()
    listening = grpc.aio.server()
    listening.add_generic_rpc_handlers((host,))
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    yield f"127.0.0.1:{port}"
    await server.stop(5.0)
    await listening.stop(5.0)


def rows(*values: float) -> np.ndarray[Any, Any]:
    return np.array([values], np.float32)


async def test_answers_are_those_of_a_server(address: str) -> None:
    """Streams, unary calls and gradients, in both directions."""
    with Client(address, token=SECRET) as client:
        streamed = await asyncio.to_thread(client.embed, "gate", rows(1, 2))
        (listed,) = await asyncio.to_thread(client.list)
    assert (streamed.tolist(), listed.name) == ([[2, 4]], "test/embedding/gate")


async def test_the_access_log_names_the_peer(address: str) -> None:
    """It is read while the call runs: grpcio ends the process that asks for it later."""
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = QueueHandler(lines)
    access_log.logger.addHandler(handler)
    with Client(address, token=SECRET) as client:
        await asyncio.to_thread(client.list)
    line = await asyncio.to_thread(lines.get, timeout=20)
    access_log.logger.removeHandler(handler)
    assert line.__dict__["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize(
    ("token", "name", "error", "words"),
    [
        pytest.param(None, "gate", UnauthenticatedError, "token", id="no token"),
        pytest.param(SECRET, "gat", BackboneNotFoundError, "did you mean", id="unknown backbone"),
    ],
)
async def test_errors_keep_their_reason(
    address: str, token: str | None, name: str, error: type[MidribError], words: str
) -> None:
    """The details of a status pass the host."""
    with Client(address, token=token) as client, pytest.raises(error, match=words):
        await asyncio.to_thread(client.embed, name, rows(1, 2))


async def test_a_bad_item_is_refused_with_its_reason(address: str) -> None:
    """The item's error is inside the stream."""
    with Client(address, token=SECRET) as client, pytest.raises(InvalidInputError, match=r"has shape \[1, 3\]"):
        await asyncio.to_thread(client.embed, "gate", rows(1, 2, 3))


async def test_health_is_public_and_unknown_methods_are_refused(address: str) -> None:
    """A load balancer needs no token; a method that no service has is UNIMPLEMENTED."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        metadata = (("authorization", f"Bearer {SECRET}"),)
        unknown: Any = channel.unary_unary("/midrib.v1.EmbeddingService/Sing")
        with pytest.raises(grpc.aio.AioRpcError, match="not served here") as caught:
            await unknown(b"", timeout=10, metadata=metadata)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

"""The parts of the ingress that need no Ray: tokens, health, watches, and connections to replicas that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import grpc
import pytest
import tomli_w
from grpc_health.v1 import health_pb2

from midrib.ray.serve._access import IngressAccess
from midrib.ray.serve._relay import Channels
from midrib.ray.serve._router import BackboneRouter
from midrib.ray.serve._watches import serve_watch
from midrib.wire import PermissionDeniedError, UnauthenticatedError

TOKEN = "of a caller that may read"
BEARER = (("authorization", f"Bearer {TOKEN}"),)
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
STREAM = "/midrib.v1.EmbeddingService/EmbedStream"


def write_tokens(path: Path, token: str) -> Path:
    """Write a token that may read."""
    entry = {"name": "caller", "sha256": sha256(token.encode()).hexdigest(), "scopes": ["read"]}
    path.write_text(tomli_w.dumps({"tokens": [entry]}))
    return path


@pytest.fixture()
def tokens(tmp_path: Path) -> Path:
    """A file with one token."""
    return write_tokens(tmp_path / "tokens.toml", TOKEN)


@asynccontextmanager
async def routing(
    tokens: Path, *, public_health: bool = False, handles: Mapping[str, Any] = MappingProxyType({})
) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a connection to a gRPC server whose calls a router answers. No backbone is behind it.

    handles: Ray's, of the applications.
    """
    names = {f"a/b/{application}": application for application in handles or ("c",)}
    router = BackboneRouter(names, IngressAccess(tokens, public_health=public_health))
    router._handles.update(handles)  # Ray makes them in a process that it has started

    class Services(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            async def answer(_requests: Any, context: Any) -> None:
                work = router.answer(details.method, context)
                await (serve_watch(work, context, longest_s=0.1) if details.method == WATCH else work)

            return grpc.stream_stream_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Services(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


class NoReplica:
    """Ray's handle of an application whose replica does not start.  left: set once nobody waits for it."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    @asynccontextmanager
    async def choose_replica(self) -> AsyncIterator[Any]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            self.left.set()


class EndedReplica:
    """Ray's handle of an application whose replica has just ended."""

    @asynccontextmanager
    async def choose_replica(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(replica_metadata={"address": "127.0.0.1:1"})  # nothing listens there


async def unary(channel: grpc.aio.Channel, method: str, headers: Any = ()) -> bytes:
    """Return the answer to an empty request."""
    behaviour: Any = channel.unary_unary(method)
    answer: bytes = await behaviour(b"", metadata=headers, timeout=60)
    return answer


@pytest.mark.parametrize("method", [STREAM, CHECK, WATCH, "/inference.GRPCInferenceService/ServerLive"])
async def test_a_caller_without_a_token_is_refused_before_it_sends_anything(tokens: Path, method: str) -> None:
    """The ingress does not receive a message from a caller that the replicas would refuse."""
    async with routing(tokens) as channel:
        behaviour: Any = channel.stream_stream(method)
        call = behaviour(timeout=60)  # open: no message has been sent, and none is coming
        with pytest.raises(grpc.aio.AioRpcError, match="this server wants a token") as caught:
            await call.read()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_health_needs_a_token_unless_it_is_public(tokens: Path) -> None:
    """As on the plain server: `public_health` is a setting."""
    async with routing(tokens) as channel:
        assert health_pb2.HealthCheckResponse.FromString(await unary(channel, CHECK, BEARER)).status
    async with routing(tokens, public_health=True) as channel:
        assert health_pb2.HealthCheckResponse.FromString(await unary(channel, CHECK)).status


async def test_a_watch_ends_so_that_a_replica_can_leave(tokens: Path) -> None:
    """Ray waits for the calls of a replica that leaves, and its client would never end this one."""
    async with routing(tokens, public_health=True) as channel:
        watch: Any = channel.unary_stream(WATCH)
        call = watch(b"", timeout=60)
        assert health_pb2.HealthCheckResponse.FromString(await call.read()).status
        with pytest.raises(grpc.aio.AioRpcError, match="watch again") as caught:
            await call.read()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_an_error_of_the_watch_is_raised_unchanged(tokens: Path) -> None:
    """A TimeoutError of the work is not the end of the Watch."""

    async def fail() -> None:
        raise TimeoutError("of the work")

    with pytest.raises(TimeoutError, match="of the work"):
        await serve_watch(fail(), None, longest_s=60)


async def test_a_list_that_fails_waits_for_no_other_deployment(tokens: Path) -> None:
    """A replica that starts later would get headers that grpcio has freed, with the token of any other caller."""
    starting = NoReplica()
    async with routing(tokens, handles={"starting": starting, "ended": EndedReplica()}) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="failed to connect") as caught:
            await unary(channel, "/midrib.v1.BackboneService/ListBackbones", BEARER)
        await asyncio.wait_for(starting.left.wait(), 10)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_withdrawn_token_is_refused_after_the_file_is_read_again(tokens: Path) -> None:
    """A wrong file leaves the present tokens in force."""
    access = IngressAccess(tokens, public_health=False)
    access.check(CHECK, BEARER)
    tokens.write_text("not TOML")
    access.reload()
    access.check(CHECK, BEARER)
    with pytest.raises(PermissionDeniedError, match="lacks the scope 'embed'"):
        access.check(STREAM, BEARER)
    write_tokens(tokens, "another")
    access.reload()
    with pytest.raises(UnauthenticatedError, match="not known here"):
        access.check(CHECK, BEARER)


async def test_connections_to_replicas_that_have_left_are_forgotten() -> None:
    """Each replica that Ray starts has another address."""
    seconds = iter(range(0, 100_000, 200))
    channels = Channels(lambda: next(seconds))
    for port in range(1, 40):
        await asyncio.sleep(0)
        channels.to(f"127.0.0.1:{port}")
    assert len(channels) <= 2

"""The ports of a server that does not start, and the answers that wait for a client."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial

import grpc
import pytest

from midrib.registry import Registry
from midrib.server import Server, Settings
from midrib.server._front.call import CallContext
from midrib.server._front.connection import Http2Connection, _set_options
from midrib.server._front.frames import DATA, END_HEADERS, END_STREAM, HEADERS, Http2Error
from midrib.server._front.headers import trailers
from midrib.server._front.limits import AbuseCounter, FrontLimits
from midrib.server._front.listener import listening_sockets
from midrib.server._front.messages import PREFIX_BYTES
from midrib.server._front.sending import Sender
from midrib.server._front.server import FrontServer
from midrib.server._front.session import Http2Session
from midrib.server._front.stream import Http2Stream
from midrib.server.testing import serving
from server.tests.grpc.http2_frames import NO_FLAGS, RST_STREAM, Connection, frame, head, message

LIMITS = FrontLimits(
    max_message_bytes=1024,
    max_metadata_bytes=8192,
    max_streams=100,
    idle_s=60.0,
    age_s=None,
    age_grace_s=1.0,
    min_ping_interval_s=1.0,
)
EXPIRED = trailers(grpc.StatusCode.DEADLINE_EXCEEDED, "", ())


async def test_a_server_that_cannot_start_closes_its_ports(
    test_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC listened already when HTTP failed."""
    monkeypatch.setitem(sys.modules, "midrib.server._http.server", None)
    server = Server(Settings(port=0, http_port=0, front="asyncio", fronts=1), registry=test_registry)
    with pytest.raises(ImportError, match="HTTP needs aiohttp"):
        await server.start()
    (again,) = listening_sockets("127.0.0.1", server.port)
    again.close()


async def test_a_server_that_never_started_closes_its_ports() -> None:
    """A later step of the start may fail."""
    server = FrontServer(LIMITS)
    port = server.add_port("127.0.0.1:0")
    await server.stop(0.0)
    (again,) = listening_sockets("127.0.0.1", port)
    again.close()


async def test_no_connection_is_open_once_the_server_has_stopped() -> None:
    """The event loop may end then. This client does not answer the ping of the drain."""
    server = FrontServer(LIMITS)
    port = server.add_port("127.0.0.1:0")
    await server.start()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        assert await asyncio.to_thread(client.recv, 4096)
        await server.stop(0.0)
        assert b"server shutdown" in b"".join(iter(lambda: client.recv(4096), b""))


async def test_a_connection_that_opens_during_the_drain_is_drained() -> None:
    """Its TLS handshake had begun before. Otherwise its client would not learn that the server stops."""
    server = FrontServer(LIMITS)
    await server.stop(0.0)
    ends = socket.socketpair()
    with ends[1] as client:
        client.settimeout(5)
        transport, _ = await asyncio.get_running_loop().create_connection(
            partial(Http2Connection, server), sock=ends[0]
        )
        assert b"server shutdown" in await asyncio.to_thread(client.recv, 4096)
        transport.abort()


async def test_a_call_that_waits_for_room_ends_with_its_connection() -> None:
    """The front process would keep it and its connection: the engine's record of its end has arrived already."""
    server = FrontServer(LIMITS)
    await server.start()
    ends = socket.socketpair()
    with ends[1]:
        transport, connection = await asyncio.get_running_loop().create_connection(
            partial(Http2Connection, server), sock=ends[0]
        )
        connection.pause_writing()
        connection.session.handle(*next(calls(1)))
        waiting = asyncio.ensure_future(connection.session.streams[1].written())
        await asyncio.sleep(0)
        transport.abort()
        await asyncio.wait_for(waiting, 5)


@pytest.fixture()
async def sender() -> AsyncIterator[Sender]:
    """A sender whose transport is full."""
    ends = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ends[0])
    sender = Sender(transport)
    sender.is_paused = True
    yield sender
    transport.abort()
    ends[1].close()


def calls(number: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield a frame for each call, as `Http2Session.handle` takes it."""
    return ((HEADERS, END_HEADERS | END_STREAM, stream, head()) for stream in range(1, 2 * number, 2))


async def test_a_handler_that_goes_on_after_its_stream_does_not_wait_for_the_client(sender: Sender) -> None:
    """Nothing of it is sent any more."""
    streams: list[Http2Stream] = []
    session = Http2Session(LIMITS, sender, AbuseCounter(LIMITS, lambda: 0.0), start=streams.append, ponged=lambda: None)
    session.handle(*next(calls(1)))
    session.lost()
    await asyncio.wait_for(streams[0].written(), 5)


async def test_answers_to_a_client_that_reads_nothing_are_bounded(sender: Sender) -> None:
    """Calls whose deadline has passed are answered at once, also if the transport is full."""

    def expire(stream: Http2Stream) -> None:
        stream.end(EXPIRED)
        session.call_ended()

    session = Http2Session(LIMITS, sender, AbuseCounter(LIMITS, lambda: 0.0), start=expire, ponged=lambda: None)
    for call in calls(10_000):
        session.handle(*call)
    with pytest.raises(Http2Error, match="answers_not_read"):
        session.handle(HEADERS, END_HEADERS | END_STREAM, 20_001, head())


async def test_a_function_that_fails_at_the_end_of_a_call_does_not_keep_others_from_it(sender: Sender) -> None:
    """They release the memory of the call."""
    streams: list[Http2Stream] = []
    session = Http2Session(LIMITS, sender, AbuseCounter(LIMITS, lambda: 0.0), start=streams.append, ponged=lambda: None)
    session.handle(*next(calls(1)))
    call = CallContext(streams[0], "a client", max_message_bytes=1024)
    ended: list[CallContext] = []
    call.add_done_callback({}.__getitem__)  # raises KeyError
    call.add_done_callback(ended.append)
    call.ended()
    assert ended == [call]


async def test_a_stream_that_has_ended_keeps_no_bytes(sender: Sender) -> None:
    """A large message that was half sent would stay until a garbage collection."""
    streams: list[Http2Stream] = []
    session = Http2Session(LIMITS, sender, AbuseCounter(LIMITS, lambda: 0.0), start=streams.append, ponged=lambda: None)
    session.handle(HEADERS, END_HEADERS, 1, head())
    session.handle(DATA, NO_FLAGS, 1, message(b"", declared=1000) + bytes(900))
    before = streams[0].assembler.missing
    streams[0].end(EXPIRED)
    assert (before, streams[0].assembler.missing) == (100, PREFIX_BYTES)


@pytest.mark.parametrize("fronts", [1, 3])
def test_a_large_message_to_a_small_method_is_refused_before_it_arrives(test_registry: Registry, fronts: int) -> None:
    """Health is answered without a token: half-sent messages to it must not take memory."""
    with (
        serving("linear", registry=test_registry, front="asyncio", fronts=fronts) as running,
        closing(Connection(running.address)) as connection,
    ):
        call = frame(HEADERS, END_HEADERS, 1, head(path=b"/grpc.health.v1.Health/Check"))
        connection.send([call, frame(DATA, NO_FLAGS, 1, message(b"x", declared=2**20))])
        assert connection.until(RST_STREAM)


def test_a_client_whose_machine_is_gone_is_noticed_within_minutes() -> None:
    """By TCP's probes, also while its stream is open and neither side sends; the system's default is two hours."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            _set_options(connection)
            idle_s, interval_s, count = (
                connection.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle_s + interval_s * count <= 180

"""Floods of valid frames: others get the event loop in between, and a connection that only floods is closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import uvloop

from midrib.server._front.frames import Http2Error
from midrib.server._front.limits import AbuseCounter, FrameTime
from midrib.server._front.sending import Sender
from midrib.server._front.server import FrontServer
from midrib.server._front.session import Http2Session
from server.tests.front.test_server import LIMITS
from server.tests.grpc.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NO_FLAGS,
    PADDED,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    head,
    message,
    number,
)

# 300 fields in a byte each, which take half a millisecond to read.
MANY_FIELDS = head() + b"\x90" * 300
HUFFMAN = b"\x00\x01x\xff" + number(4000)[1:] + bytes(4000)


async def longest_step_s(task: asyncio.Task[None]) -> float:
    """Return the longest processor time of one iteration of the event loop until a task has ended."""
    longest_s, last_s = 0.0, time.thread_time()
    while not task.done():
        await asyncio.sleep(0)
        now_s = time.thread_time()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    return longest_s


async def flood(port: int, frames: bytes) -> None:
    """Send frames, and wait until the server has handled them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + frames)
    writer.write_eof()
    while await reader.read(65_536):
        pass
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.fixture()
def _frozen() -> Iterator[None]:
    """Full garbage collections do not visit loaded objects, as in `midrib serve`."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_frozen")
async def test_others_run_between_the_frames_of_a_flood() -> None:
    """One reading of a socket holds hundreds of calls, and several connections send at the same time."""
    server = FrontServer(LIMITS)
    port = server.add_port("127.0.0.1:0")
    await server.start()
    calls = b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream, MANY_FIELDS) for stream in range(1, 1000, 2))
    async with asyncio.TaskGroup() as group:
        floods = [group.create_task(flood(port, calls)) for _ in range(4)]
        assert await longest_step_s(floods[0]) < 0.05
    await server.stop(0.0)


async def count(requests: AsyncIterator[bytes], _context: Any) -> None:
    """Handle each message of a stream for a moment, without waiting for anything."""
    async for _ in requests:
        sum(range(1000))


@pytest.mark.usefixtures("_frozen")
async def test_others_run_between_the_messages_of_a_stream() -> None:
    """The window of a stream holds thousands of messages without content, which all lie ready."""
    server = FrontServer(LIMITS)
    handlers: dict[str, Any] = {"Count": grpc.stream_stream_rpc_method_handler(count)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", handlers)])
    port = server.add_port("127.0.0.1:0")
    await server.start()
    messages = frame(DATA, NO_FLAGS, 1, message(b"") * 3000) * 4
    stream = frame(HEADERS, END_HEADERS, 1, head(path=b"/test/Count")) + messages
    async with asyncio.TaskGroup() as group:
        assert await longest_step_s(group.create_task(flood(port, stream))) < 0.05
    await server.stop(0.0)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Both event loops that a server runs on."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def test_the_time_of_an_iteration_ends(runner: asyncio.Runner) -> None:
    """Frames that take longer are handled in the next iterations."""

    async def handled() -> int:
        """Handle frames of a tenth of a millisecond while there is time for them."""
        frame_time = FrameTime.of(asyncio.get_running_loop())
        count = 0
        while frame_time.is_left() and count < 10_000:
            count += 1
            sum(range(10_000))
        return count

    assert 0 < runner.run(handled()) < 1000


def test_an_event_loop_that_is_closed_is_freed() -> None:
    """A program may start many servers, each on an event loop."""
    loop = asyncio.new_event_loop()
    closed = weakref.ref(loop)
    FrameTime.of(loop).call_started()
    loop.close()
    del loop
    gc.collect()
    assert closed() is None


@pytest.fixture()
async def sender() -> AsyncIterator[Sender]:
    ends = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ends[0])
    yield Sender(transport)
    transport.abort()
    ends[1].close()


@pytest.fixture()
def session(sender: Sender) -> Http2Session:
    """A session with two streams: number 1 is open, number 3 has ended."""
    abuse = AbuseCounter(LIMITS, lambda: 0.0)
    session = Http2Session(LIMITS, sender, abuse, start=lambda _: None, ponged=lambda: None)
    session.handle(HEADERS, END_HEADERS, 1, head())
    session.handle(HEADERS, END_HEADERS, 3, head())
    session.handle(RST_STREAM, NO_FLAGS, 3, bytes(4))
    return session


def handle_many(session: Http2Session, *parts: Any, times: int = 10_000) -> None:
    for _ in range(times):
        session.handle(*parts)


@pytest.mark.parametrize("stream", [pytest.param(0, id="connection"), pytest.param(1, id="open stream"), 3])
async def test_windows_grow_by_as_much_as_was_sent(session: Http2Session, stream: int) -> None:
    """Each increase is large, but the server has sent nothing."""
    with pytest.raises(Http2Error, match="too_many_frames"):
        handle_many(session, WINDOW_UPDATE, NO_FLAGS, stream, struct.pack(">I", 2000))


async def test_a_client_may_grant_the_bytes_that_it_has_received(session: Http2Session, sender: Sender) -> None:
    """Such window updates are not counted as a flood, however many bytes they grant."""
    for _ in range(10_000):
        assert sender.send_at_once(session.streams[1], 2000)
        session.handle(WINDOW_UPDATE, NO_FLAGS, 0, struct.pack(">I", 2000))
        session.handle(WINDOW_UPDATE, NO_FLAGS, 1, struct.pack(">I", 2000))
        sender.send(b"")
        await asyncio.sleep(0)


async def test_padding_is_not_content(session: Http2Session) -> None:
    """A call whose message never ends could receive it for ever."""
    with pytest.raises(Http2Error, match="too_many_frames"):
        handle_many(session, DATA, PADDED, 1, b"\xff" + bytes(255))


async def test_trailers_count_by_their_size(session: Http2Session) -> None:
    """Those of a stream that has ended are read too, because HPACK's table depends on them."""
    with pytest.raises(Http2Error, match="too_many_frames"):
        handle_many(session, HEADERS, END_HEADERS | END_STREAM, 3, HUFFMAN, times=200)


async def test_a_header_block_updates_the_table_twice_at_most(session: Http2Session) -> None:
    """RFC 7541, 4.2: each update takes time, and fits into a byte."""
    with pytest.raises(Http2Error, match="too_many_table_updates"):
        session.handle(HEADERS, END_HEADERS, 5, b"\x20\x3f\xe1\x1f\x20" + head())


async def test_settings_that_make_a_window_too_large_end_the_connection(session: Http2Session) -> None:
    """They belong to no stream (RFC 9113, 6.9.2)."""
    session.handle(WINDOW_UPDATE, NO_FLAGS, 1, struct.pack(">I", 2**31 - 1 - 65_535))
    with pytest.raises(Http2Error, match="beyond 31 bits"):
        session.handle(SETTINGS, NO_FLAGS, 0, struct.pack(">HI", 4, 65_536))

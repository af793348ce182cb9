"""Compare HTTP/2 in Python without sockets: the processor time of a unary call through h2, zttp and Midrib's own front.

`python benchmarks/fronts/parsers.py` needs h2, hpack and zttp. A call is one HEADERS and one DATA frame of 3 kB; its
answer is HEADERS, DATA of 1.1 kB and trailers. No handler runs.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import h2.config
import h2.connection
import h2.events
import zttp
from hpack import Encoder
from zttp_windows import CALL, DATA, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, frame

from midrib.server._front.connection import Http2Connection
from midrib.server._front.limits import FrontLimits
from midrib.server._front.stream import Http2Stream

CALLS = 2000
ROUNDS = 5
MESSAGE = struct.pack(">BI", 0, 3000) + bytes(3000)
ANSWER = bytes(1100)
HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0")]
Feed: TypeAlias = Callable[[bytes], int]


def calls() -> list[bytes]:
    """Return the frames of the client, one element for each call."""
    encoder = Encoder()
    fields = [*CALL, ("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "grpc-python/1.85")]
    return [
        frame(HEADERS, 4, stream, encoder.encode(fields)) + frame(DATA, 1, stream, MESSAGE)
        for stream in range(1, 2 * CALLS, 2)
    ]


def greeting() -> bytes:
    """Return the client's preface; it lets the server send without limit."""
    windows = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1))
    return PREFACE + windows + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535))


def through_h2() -> Feed:
    """Return a function that answers calls by the library h2; it returns the size of its answer."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()

    def feed(data: bytes) -> int:
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                connection.send_headers(event.stream_id, HEAD)
                connection.send_data(event.stream_id, ANSWER)
                connection.send_headers(event.stream_id, TRAILERS, end_stream=True)
        return len(connection.data_to_send())

    return feed


def through_zttp() -> Feed:
    """Return a function that answers calls by the library zttp; it returns the size of its answer."""
    connection = zttp.Connection(zttp.SERVER, protocol=zttp.HTTP2)

    def feed(data: bytes) -> int:
        connection.receive_data(data)
        while (event := connection.next_event()) is not zttp.NEED_DATA:
            if isinstance(event, zttp.EndOfMessage):
                stream = connection.stream(event.stream_id)
                stream.send_response(200, HEAD[1:])
                stream.send_data(ANSWER)
                stream.end_message(TRAILERS)
        return len(connection.data_to_send())

    return feed


class _Transport:
    """Counts the written bytes."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, _name: str) -> None:
        return None


class _Owner:
    """Answers each call at once; no task runs."""

    limits = FrontLimits(2**22, 2**14, 1024, 3600, None, 30, 5)

    def opened(self, connection: Http2Connection) -> None:
        pass

    def closed(self, connection: Http2Connection) -> None:
        pass

    def start_call(self, connection: Http2Connection, stream: Http2Stream) -> None:
        self.open = connection, stream

    def answer(self) -> None:
        connection, stream = self.open
        for step in (stream.read(), stream.write(ANSWER)):
            with suppress(StopIteration):
                step.send(None)
        stream.end(b"\x00\x0bgrpc-status\x010")
        connection.session.call_ended()


def through_midrib() -> Feed:
    """Return a function that answers calls by Midrib's front; it returns the size of its answers so far."""
    owner, transport = _Owner(), _Transport()
    connection = Http2Connection(owner)
    connection.connection_made(transport)  # type: ignore[arg-type] # the part of a transport that it uses

    def feed(data: bytes) -> int:
        connection.data_received(data)
        if not data.startswith(PREFACE[:3]):
            owner.answer()
            connection._sender.flush()  # noqa: SLF001 - the event loop does not run
        return transport.written

    return feed


async def call_s(feed: Feed, frames: Sequence[bytes]) -> float:
    """Return the seconds of processor time of a call, each in its iteration of the loop: Midrib limits their number."""
    feed(greeting())
    spent_s = 0.0
    for data in frames:
        await asyncio.sleep(0)
        began = time.process_time()
        feed(data)
        spent_s += time.process_time() - began
    return spent_s / len(frames)


async def main() -> None:
    """Print the processor time of a call for each of them."""
    frames = calls()
    for make in (through_h2, through_zttp, through_midrib):
        times = [await call_s(make(), frames) for _ in range(ROUNDS)]
        name = make.__name__.removeprefix("through_")
        print(f"{name}: {1e6 * min(times):.1f} us of processor time a call")  # noqa: T201 - the result


asyncio.run(main())

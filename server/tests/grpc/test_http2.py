"""Hostile HTTP/2, frame by frame, to a server in another process: it answers others as before, in bounded memory."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from midrib.v1 import embedding_pb2_grpc
from server.tests.grpc.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NO_FLAGS,
    PADDED,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    frame,
    head,
    header,
    message,
    number,
)
from server.tests.grpc.server_process import GOOD, ServerProcess

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a server's memory from /proc")


def rapid_reset() -> Iterator[bytes]:
    for first in range(1, 20_000, 200):
        streams = range(first, first + 200, 2)
        yield b"".join(
            frame(HEADERS, END_HEADERS, stream, head()) + frame(RST_STREAM, 0, stream, bytes(4)) for stream in streams
        )


def continuation_flood() -> Iterator[bytes]:
    yield frame(HEADERS, NO_FLAGS, 1, head())
    for _ in range(2000):
        yield frame(CONTINUATION, NO_FLAGS, 1, header(b"x-padding", b"y" * 10_000))


def empty_frames() -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, head())
    for _ in range(50):
        yield frame(DATA, NO_FLAGS, 1) * 1000


def header_bomb() -> Iterator[bytes]:
    """One indexed header of 3 kB, named 5,000 times in a byte each."""
    yield frame(HEADERS, END_HEADERS, 1, head() + header(b"x", b"y" * 3000, indexed=True) + b"\xbe" * 5000)


def many_streams() -> Iterator[bytes]:
    for stream in range(1, 4000, 2):
        yield frame(HEADERS, END_HEADERS, stream, head())


def settings_flood() -> Iterator[bytes]:
    for _ in range(20):
        yield frame(SETTINGS, NO_FLAGS, 0, struct.pack(">HI", 4, 65_535)) * 1000


def windows_beyond_31_bits() -> Iterator[bytes]:
    yield frame(WINDOW_UPDATE, NO_FLAGS, 0, struct.pack(">I", 2**31 - 1)) * 3


def a_message_of_4_gb() -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, head()) + frame(DATA, NO_FLAGS, 1, b"\0\xff\xff\xff\xff" + b"x" * 100)


def unknown_frames() -> Iterator[bytes]:
    for _ in range(20):
        yield frame(99, NO_FLAGS, 1, b"x" * 16) * 1000


def strange_headers() -> Iterator[bytes]:
    strange = [(b"grpc-timeout", b"-5S"), (b"grpc-timeout", b"NaN"), (b"grpc-timeout", b"9" * 30 + b"H")]
    strange += [(b"x-bin", b"\xff\x00 no base64"), (b"x", b"\x00\x01\r\n: "), (b"X-Upper", b""), (b"", b"")]
    strange += [
        (b"content-length", b"-1"),
        (b":path", b"/again"),
        (b"grpc-encoding", b"bomb"),
        (b"connection", b"close"),
    ]
    for stream, pair in enumerate(strange):
        yield frame(HEADERS, END_HEADERS, 2 * stream + 1, head(pair)) + frame(
            DATA, END_STREAM, 2 * stream + 1, bytes(5)
        )


def settings_of_many_windows() -> Iterator[bytes]:
    """Each setting changes the windows of all streams."""
    yield b"".join(frame(HEADERS, END_HEADERS, stream, head()) for stream in range(1, 17, 2))
    for window in range(200):
        yield frame(SETTINGS, NO_FLAGS, 0, struct.pack(">HI", 4, window) * 2700)


def windows_that_grow_by_one() -> Iterator[bytes]:
    """The answer of a call is sent byte by byte."""
    yield frame(SETTINGS, NO_FLAGS, 0, struct.pack(">HI", 4, 0)) + frame(HEADERS, END_HEADERS, 1, head())
    yield frame(DATA, END_STREAM, 1, message(b"x"))
    for _ in range(100):
        yield frame(WINDOW_UPDATE, NO_FLAGS, 1, struct.pack(">I", 1)) * 1000


def data_beyond_the_window() -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, head()) + frame(DATA, NO_FLAGS, 1, message(b"", declared=2**24))
    for _ in range(2000):
        yield frame(DATA, NO_FLAGS, 1, bytes(16_000))


def data_byte_by_byte() -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, head()) + frame(DATA, NO_FLAGS, 1, message(b"", declared=60_000))
    for _ in range(50):
        yield frame(DATA, NO_FLAGS, 1, b"x") * 1000


def priorities() -> Iterator[bytes]:
    for _ in range(50):
        yield frame(PRIORITY, NO_FLAGS, 1, bytes(5)) * 1000


def headers_that_never_end() -> Iterator[bytes]:
    yield frame(HEADERS, NO_FLAGS, 1, head())


def large_headers() -> Iterator[bytes]:
    """Other ones for each call, in Huffman's code, which takes the most time to read."""
    for stream in range(1, 400, 2):
        yield frame(HEADERS, END_HEADERS, stream, head() + b"\x00\x01x\xff" + number(12_000)[1:] + bytes(12_000))


def padding_beyond_its_frame() -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, head()) + frame(DATA, PADDED, 1, b"\xff" + bytes(20))


def padding_without_content() -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, head()) + frame(DATA, NO_FLAGS, 1, message(b"", declared=60_000))
    for _ in range(200):
        yield frame(DATA, PADDED, 1, b"\xff" + bytes(255)) * 100


def tables_that_change_their_size() -> Iterator[bytes]:
    """Each block of headers begins with hundreds of changes of HPACK's table."""
    for stream in range(1, 2000, 2):
        yield frame(HEADERS, END_HEADERS, stream, (b"\x20" + b"\x3f\xe1\x1f") * 300 + head())
        yield frame(RST_STREAM, 0, stream, bytes(4))


def resets_of_ended_streams() -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS | END_STREAM, 1, head())
    for _ in range(50):
        yield frame(RST_STREAM, NO_FLAGS, 1, bytes(4)) * 1000


def empty_continuations() -> Iterator[bytes]:
    yield frame(HEADERS, NO_FLAGS, 1, head())
    for _ in range(50):
        yield frame(CONTINUATION, NO_FLAGS, 1) * 1000


def windows_of_the_connection() -> Iterator[bytes]:
    for _ in range(50):
        yield frame(WINDOW_UPDATE, NO_FLAGS, 0, struct.pack(">I", 1)) * 1000


def frames_of_streams_that_never_were() -> Iterator[bytes]:
    yield frame(DATA, NO_FLAGS, 5, bytes(5)) + frame(RST_STREAM, NO_FLAGS, 9, bytes(4))
    yield frame(HEADERS, END_HEADERS, 2, head())


def frames_of_a_wrong_length() -> Iterator[bytes]:
    yield frame(WINDOW_UPDATE, NO_FLAGS, 0, bytes(3)) + frame(SETTINGS, NO_FLAGS, 0, bytes(5))


def no_http2() -> Iterator[bytes]:
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(rapid_reset, id="rapid reset"),
        pytest.param(continuation_flood, id="continuation flood"),
        pytest.param(empty_frames, id="empty frames"),
        pytest.param(header_bomb, id="header bomb"),
        pytest.param(many_streams, id="streams without end"),
        pytest.param(settings_flood, id="settings flood"),
        pytest.param(windows_beyond_31_bits, id="windows beyond 31 bits"),
        pytest.param(a_message_of_4_gb, id="a message of 4 GB"),
        pytest.param(unknown_frames, id="unknown frames"),
        pytest.param(strange_headers, id="strange headers"),
        pytest.param(settings_of_many_windows, id="settings of many windows"),
        pytest.param(windows_that_grow_by_one, id="windows that grow by one"),
        pytest.param(data_beyond_the_window, id="data beyond the window"),
        pytest.param(data_byte_by_byte, id="data byte by byte"),
        pytest.param(priorities, id="priorities"),
        pytest.param(headers_that_never_end, id="headers that never end"),
        pytest.param(large_headers, id="large headers"),
        pytest.param(padding_beyond_its_frame, id="padding beyond its frame"),
        pytest.param(padding_without_content, id="padding without content"),
        pytest.param(tables_that_change_their_size, id="tables that change their size"),
        pytest.param(resets_of_ended_streams, id="resets of ended streams"),
        pytest.param(empty_continuations, id="empty continuations"),
        pytest.param(windows_of_the_connection, id="windows of the connection"),
        pytest.param(frames_of_streams_that_never_were, id="frames of streams that never were"),
        pytest.param(frames_of_a_wrong_length, id="frames of a wrong length"),
        pytest.param(no_http2, id="no HTTP/2"),
    ],
)
def test_a_hostile_connection_does_not_affect_others(
    server_process: ServerProcess, connection: Connection, attack: Any
) -> None:
    """Others are answered while it is open and afterwards, and it leaves little memory behind."""
    before = server_process.mebibytes
    connection.send(attack())
    assert server_process.embed() == [1, 128]
    connection.close()
    assert server_process.embed() == [1, 128]
    assert server_process.mebibytes < before + 100


def test_connections_beyond_the_servers_files_wait(server_process: ServerProcess) -> None:
    """Who is connected is served; others are once some have left."""
    with grpc.insecure_channel(server_process.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        bearer = [("authorization", f"Bearer {server_process.secret}")]
        stub.Embed(GOOD, timeout=30, metadata=bearer)
        crowd = [Connection(server_process.address) for _ in range(2 * ServerProcess.FILES)]
        assert list(stub.Embed(GOOD, timeout=30, metadata=bearer).embedding.shape) == [1, 128]
        for connection in crowd:
            connection.close()
    assert server_process.embed() == [1, 128]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"Authorization: Bearer SECRET\0", id="a control character"),
        pytest.param(b"Authorization : Bearer SECRET", id="a space in the name"),
        pytest.param(b"Authorization: Bearer SECRET" + b"x" * 9000, id="too long"),
        pytest.param(b"Authorization: Bearer SECRET\r\nContent-Length: -1", id="another header is wrong"),
    ],
)
def test_a_request_that_is_no_http_is_not_quoted_in_the_log(server_process: ServerProcess, line: bytes) -> None:
    """Its headers may hold a token; and a client must not be able to fill the log."""
    host, _, port = server_process.http.rpartition(":")
    before = server_process.log
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n"
        connection.sendall(request.replace(b"SECRET", server_process.secret.encode()))
        assert b" 400 " in connection.recv(65_536)
    assert server_process.log == before

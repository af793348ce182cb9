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
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    frame,
    head,
    header,
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
    ],
)
def test_a_hostile_connection_harms_nobody_else(
    server_process: ServerProcess, connection: Connection, attack: Any
) -> None:
    """Others are answered while it stands and after it, and it leaves little behind."""
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
    """Its headers may hold a token; and nobody shall fill the log from outside."""
    host, _, port = server_process.http.rpartition(":")
    before = server_process.log
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n"
        connection.sendall(request.replace(b"SECRET", server_process.secret.encode()))
        assert b" 400 " in connection.recv(65_536)
    assert server_process.log == before

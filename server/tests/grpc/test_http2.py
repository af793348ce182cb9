"""Hostile HTTP/2, frame by frame, to a server in a process of its own: it answers others as before, in bounded memory.

No client library sends such frames, so the tests write them. Source of the numbers: RFC 9113 and RFC 7541.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a server's memory from /proc")

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_FLAGS = 0
NAME = "template/classification/mlp-128"
GOOD = embedding_pb2.EmbedRequest(
    backbone=NAME, input=embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def number(value: int, prefix: int = 0x7F) -> bytes:
    """An integer of RFC 7541, 5.1."""
    if value < prefix:
        return bytes([value])
    value, said = value - prefix, bytes([prefix])
    while value >= 128:
        value, said = value // 128, said + bytes([value % 128 + 128])
    return said + bytes([value])


def header(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    return (b"\x40" if indexed else b"\x00") + number(len(name)) + name + number(len(value)) + value


def head(*more: tuple[bytes, bytes]) -> bytes:
    """The header block of a call."""
    path = b"/midrib.v1.EmbeddingService/Embed"
    pairs = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    pairs += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return b"".join(header(*pair) for pair in [*pairs, *more])


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, NO_FLAGS, 0)
# All that a server has read before this comes back is handled.
LAST_PING = frame(PING, NO_FLAGS, 0, b"the last")


class Connection:
    """A connection that says whatever it likes."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._reader = self._socket.makefile("rb")
        self._socket.sendall(PREFACE)

    def send(self, said: Iterable[bytes]) -> None:
        """Until the server hangs up. (Its answers lie in the buffers of the sockets, or are read in between.)"""
        with contextlib.suppress(ConnectionError):
            for part in said:
                self._socket.sendall(part)

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """What the server says, until it hangs up: kind, flags and payload."""
        with contextlib.suppress(ConnectionError):
            while len(start := self._reader.read(9)) == 9:
                yield start[3], start[4], self._reader.read(int.from_bytes(start[:3], "big"))

    def until(self, kind: int, *, flags: int = NO_FLAGS, payload: bytes = b"") -> bool:
        """Whether such a frame came before the server hung up."""
        return any(got == kind and has & flags == flags and payload in said for got, has, said in self.frames())

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


class ServerProcess:
    """`midrib serve` with a token, as a process of its own, with few file descriptors."""

    FILES = 200

    def __init__(self, folder: Path) -> None:
        self.secret, entry = new_token("tenant", [Scope.EMBED, Scope.READ])
        self._log = folder / "log.txt"
        (folder / "tokens.toml").write_text(entry)
        settings = {"TOKENS": str(folder / "tokens.toml"), "MAX_CONNECTION_STREAMS": "8", "HTTP_PORT": "0"}
        with self._log.open("wb") as log:
            # By a shell: what runs between fork and exec in a process of threads may never end.
            limited = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(self.FILES)]
            served = ["serve", f"{NAME}?num_features=2", "--port", "0", "--json"]
            self.process = subprocess.Popen(
                [*limited, sys.executable, "-m", "midrib.server.cli", *served],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **{f"MIDRIB_{name}": value for name, value in settings.items()}},
            )
        assert self.process.stdout is not None
        loading, ready = (json.loads(self.process.stdout.readline()) for _ in range(2))
        self.address, self.http = ready["address"], loading["http"]

    def embed(self) -> list[int]:
        """A good call, on a new connection."""
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            bearer = [("authorization", f"Bearer {self.secret}")]
            return list(stub.Embed(GOOD, timeout=30, metadata=bearer, wait_for_ready=True).embedding.shape)

    @property
    def mebibytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(dict(line.split(":", 1) for line in status.splitlines())["VmRSS"].split()[0]) / 1024

    @property
    def said(self) -> str:
        """Its log."""
        return self._log.read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    yield process
    status = process.stop()
    assert (status, process.secret in process.said) == (0, False)


@pytest.fixture()
def connection(server: ServerProcess) -> Iterator[Connection]:
    opened = Connection(server.address)
    yield opened
    opened.close()


def rapid_reset() -> Iterator[bytes]:
    for first in range(1, 20_000, 200):
        streams = range(first, first + 200, 2)
        yield b"".join(
            frame(HEADERS, END_HEADERS, one, head()) + frame(RST_STREAM, 0, one, bytes(4)) for one in streams
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
def test_a_hostile_connection_harms_nobody_else(server: ServerProcess, connection: Connection, attack: Any) -> None:
    """Others are answered while it stands and after it, and it leaves little behind."""
    before = server.mebibytes
    connection.send(attack())
    assert server.embed() == [1, 128]
    connection.close()
    assert server.embed() == [1, 128]
    assert server.mebibytes < before + 100


def test_more_calls_than_a_connection_may_hold_are_refused(connection: Connection) -> None:
    """Those that go too far, and not the connection."""
    connection.send(frame(HEADERS, END_HEADERS, stream, head()) for stream in range(1, 41, 2))
    assert connection.until(RST_STREAM, payload=struct.pack(">I", 11))  # ENHANCE_YOUR_CALM
    connection.send([LAST_PING])
    assert connection.until(PING, flags=ACK)


def test_a_call_that_sends_half_a_message_ends_at_its_deadline(connection: Connection) -> None:
    """Whoever sets none holds a call of its connection, and nothing else."""
    half = frame(DATA, NO_FLAGS, 1, b"\0\0\0\0\x10x")
    connection.send([frame(HEADERS, END_HEADERS, 1, head((b"grpc-timeout", b"50m"))) + half])
    assert connection.until(RST_STREAM)


def test_a_flood_of_pings_is_refused(connection: Connection) -> None:
    """ENHANCE_YOUR_CALM, and the connection is closed."""
    connection.send([frame(PING, NO_FLAGS, 0, bytes(8)) * 100])
    assert connection.until(GOAWAY, payload=b"too_many_pings")


def test_honest_pings_are_answered(test_registry: Registry) -> None:
    """However many: no two within the interval, since each waits for the answer to the one before."""
    with serving("linear", registry=test_registry, min_ping_interval_s=0.02) as running:
        connection = Connection(running.address)
        answered = []
        for _ in range(10):
            threading.Event().wait(0.04)  # the rate that is tested
            connection.send([LAST_PING])
            answered.append(connection.until(PING, flags=ACK, payload=b"the last"))
        connection.close()
    assert answered == [True] * 10


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        pytest.param({"max_connection_idle_s": 0.1}, b"connection idle", id="idle"),
        pytest.param({"max_connection_age_s": 0.1, "drain_grace_s": 0.1}, b"max_age", id="age"),
    ],
)
def test_a_connection_ends_by_the_settings(test_registry: Registry, setting: dict[str, Any], word: bytes) -> None:
    """Its client is told to open another one."""
    with serving("linear", registry=test_registry, **setting) as running:
        connection = Connection(running.address)
        assert connection.until(GOAWAY, payload=word)
        connection.close()


def test_a_compressed_message_is_measured_unpacked(test_registry: Registry) -> None:
    """10 MB of zeros are 10 kB on the wire."""
    with (
        serving("linear", registry=test_registry, max_message_bytes=2**16) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        call: Any = channel.unary_unary("/midrib.v1.EmbeddingService/Embed")
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            call(bytes(10_000_000), timeout=20, compression=grpc.Compression.Gzip)


def test_connections_beyond_the_servers_files_wait(server: ServerProcess) -> None:
    """Who is connected is served; others are once some have left."""
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        bearer = [("authorization", f"Bearer {server.secret}")]
        stub.Embed(GOOD, timeout=30, metadata=bearer)
        crowd = [Connection(server.address) for _ in range(2 * ServerProcess.FILES)]
        assert list(stub.Embed(GOOD, timeout=30, metadata=bearer).embedding.shape) == [1, 128]
        for one in crowd:
            one.close()
    assert server.embed() == [1, 128]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"Authorization: Bearer SECRET\0", id="a control character"),
        pytest.param(b"Authorization : Bearer SECRET", id="a space in the name"),
        pytest.param(b"Authorization: Bearer SECRET" + b"x" * 9000, id="too long"),
        pytest.param(b"Authorization: Bearer SECRET\r\nContent-Length: -1", id="another header is wrong"),
    ],
)
def test_a_request_that_is_no_http_is_not_quoted_in_the_log(server: ServerProcess, line: bytes) -> None:
    """Its headers may hold a token; and nobody shall fill the log from outside."""
    host, _, port = server.http.rpartition(":")
    before = server.said
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n"
        connection.sendall(request.replace(b"SECRET", server.secret.encode()))
        assert b" 400 " in connection.recv(65_536)
    assert server.said == before

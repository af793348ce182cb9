"""The limits of a connection: calls, pings, age, half-sent messages and compressed ones."""

from __future__ import annotations

import struct
import threading
from typing import Any

import grpc
import pytest

from midrib.registry import Registry
from midrib.server.testing import serving
from server.tests.grpc.http2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    LAST_PING,
    NO_FLAGS,
    PING,
    RST_STREAM,
    Connection,
    frame,
    head,
)

pytestmark = pytest.mark.usefixtures("front")


def test_more_calls_than_a_connection_may_hold_are_refused(connection: Connection) -> None:
    """Only the calls beyond the limit are refused; the connection stays."""
    connection.send(frame(HEADERS, END_HEADERS, stream, head()) for stream in range(1, 41, 2))
    assert connection.until(RST_STREAM, payload=struct.pack(">I", 11))  # ENHANCE_YOUR_CALM
    connection.send([LAST_PING])
    assert connection.until(PING, flags=ACK)


def test_a_call_that_sends_half_a_message_ends_at_its_deadline(connection: Connection) -> None:
    """A call without a deadline uses a call of its connection, and nothing else."""
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
    """Its client is asked to open another one."""
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

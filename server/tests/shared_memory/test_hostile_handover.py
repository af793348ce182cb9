"""The socket that hands memory over: who gets it, how much of it, and that nothing remains when a client dies."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any, NoReturn
from unittest.mock import ANY

import grpc
import pytest
from prometheus_client import CollectorRegistry

from midrib.registry import Registry
from midrib.server._admission.tokens import Tenant, TokenEntry
from midrib.server._observability.accounting import Accounting
from midrib.server._settings import Settings
from midrib.server._shared_memory import streams
from midrib.server._shared_memory.segment import SealedSegment
from midrib.server._shared_memory.streams import StreamMemories
from midrib.server.testing import RunningServer, serving
from midrib.v1.embedding_pb2_grpc import EmbeddingServiceStub
from server.tests.shared_memory.hostile_client import (
    SharedStream,
    connected,
    descriptors,
    features,
    fetched,
    rows_of,
    sent_item,
    shared_bytes,
    shared_item,
    until,
)

SEGMENT = 24 << 20


@pytest.fixture()
def two_segments(test_registry: Registry) -> Iterator[RunningServer]:
    """A server with room for two segments."""
    with serving("gate", registry=test_registry, max_shared_memory_bytes=2 * SEGMENT) as running:
        yield running


@pytest.fixture()
def stub(two_segments: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(two_segments.address) as channel:
        yield EmbeddingServiceStub(channel)


def test_streams_beyond_the_limit_have_no_memory(two_segments: RunningServer, stub: Any) -> None:
    """They are served by messages, and a stream that ends makes room."""
    first, second, third = (SharedStream(stub, "gate") for _ in range(3))
    first.fetch()
    second.fetch()
    assert descriptors(third.offer, third.offer.key) == []
    third.send(sent_item(1, rows_of(1, 2)))
    assert features(third.result()) == [[2, 4]]
    assert shared_bytes(two_segments) == 2 * SEGMENT
    first.finish()
    until(two_segments, lambda: shared_bytes(two_segments) == SEGMENT)
    fourth = SharedStream(stub, "gate")
    fourth.fetch()
    for stream in (second, third, fourth):
        stream.finish()
    until(two_segments, lambda: shared_bytes(two_segments) == 0)


def test_a_stream_that_only_asks_costs_nothing(two_segments: RunningServer, stub: Any) -> None:
    """Memory is made when a process of this machine fetches it, so that other machines hold none."""
    streams = [SharedStream(stub, "gate") for _ in range(4)]
    assert shared_bytes(two_segments) == 0
    for stream in streams:
        stream.finish()


@pytest.mark.parametrize("key", [b"", b"x", bytes(16), bytes(17), bytes(4096)])
def test_a_wrong_key_gets_nothing(stub: Any, key: bytes) -> None:
    """The right key still works afterwards."""
    stream = SharedStream(stub, "gate")
    assert descriptors(stream.offer, key) == []
    stream.fetch()
    stream.finish()


def test_another_user_gets_nothing(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says which user is at the other end; here the server takes itself for another one."""
    stream = SharedStream(stub, "gate")
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert descriptors(stream.offer, stream.offer.key) == []
    monkeypatch.undo()
    stream.fetch()
    stream.finish()


def test_silent_connections_are_closed(stub: Any) -> None:
    """As many as wait at a time; after that, the key of a stream works again."""
    stream = SharedStream(stub, "gate")
    with contextlib.ExitStack() as opened:
        silent = [opened.enter_context(connected(stream.offer)) for _ in range(64)]
        refused = opened.enter_context(connected(stream.offer))
        assert refused.recv(1) == b""
        assert [connection.recv(1) for connection in silent] == [b""] * 64
    stream.fetch()
    stream.finish()


def test_a_key_is_void_once_its_stream_has_ended(two_segments: RunningServer, stub: Any) -> None:
    """No client could use that memory."""
    ended = SharedStream(stub, "gate")
    ended.finish()
    assert descriptors(ended.offer, ended.offer.key) == []
    assert shared_bytes(two_segments) == 0


async def test_a_token_has_at_most_its_bytes_in_flight() -> None:
    """Its streams beyond that use messages; other tokens are not affected."""
    memories = StreamMemories(Settings(), Accounting(CollectorRegistry()))
    narrow, wide = (
        Tenant(TokenEntry(name=name, sha256="0" * 64, scopes=frozenset(), max_in_flight_bytes=segments * SEGMENT))
        for name, segments in (("narrow", 1), ("wide", 3))
    )
    segments = [memories.new_segment(tenant) for tenant in (narrow, narrow, wide, wide)]
    assert [segment is not None for segment in segments] == [True, False, True, True]


def no_descriptor(*_: object) -> NoReturn:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_segment_that_cannot_be_handed_over_is_freed(
    two_segments: RunningServer, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has no descriptor left for it: the stream uses messages, and its memory is free for others."""
    stream = SharedStream(stub, "gate")
    with monkeypatch.context() as patched:
        patched.setattr(SealedSegment, "hand_over", no_descriptor)
        assert descriptors(stream.offer, stream.offer.key) == []
    stream.send(sent_item(1, rows_of(1, 2)))
    assert features(stream.result()) == [[2, 4]]
    until(two_segments, lambda: shared_bytes(two_segments) == 0)
    stream.finish()


def test_memory_is_shared_once_the_socket_can_be_opened(
    two_segments: RunningServer, stub: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process without a free descriptor at the first streams is no server without shared memory; it says so once."""
    with monkeypatch.context() as patched:
        patched.setattr(streams, "HandoverSocket", no_descriptor)
        early = [SharedStream(stub, "gate") for _ in range(2)]
    late = SharedStream(stub, "gate")
    assert [stream.opened.HasField("shared_memory") for stream in (*early, late)] == [False, False, True]
    assert [record.message for record in caplog.records if "socket could not be opened" in record.message] == [ANY]
    for stream in (*early, late):
        stream.finish()


def asked(stream: SharedStream) -> None:
    """Do nothing: the client has opened the stream."""


def connected_only(stream: SharedStream) -> None:
    connected(stream.offer).close()


def key_sent(stream: SharedStream) -> None:
    with connected(stream.offer) as connection:
        connection.send(stream.offer.key)


def memory_fetched(stream: SharedStream) -> None:
    os.close(fetched(stream.offer))


def items_sent(stream: SharedStream) -> None:
    stream.fetch()
    stream.send(*(shared_item(number, result_offset=64, result_bytes=8) for number in range(50)))


@pytest.mark.parametrize("step", [asked, connected_only, key_sent, memory_fetched, items_sent])
def test_a_client_that_dies_leaves_nothing(two_segments: RunningServer, stub: Any, step: Any) -> None:
    """At every step, memory and descriptors are released."""
    SharedStream(stub, "gate").finish()
    until(two_segments, lambda: shared_bytes(two_segments) == 0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        stream = SharedStream(stub, "gate")
        step(stream)
        stream.call.cancel()
        if stream.descriptor >= 0:
            stream.memory.close()
            os.close(stream.descriptor)
    until(two_segments, lambda: shared_bytes(two_segments) == 0)
    until(two_segments, lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_the_socket_ends_with_the_server(test_registry: Registry) -> None:
    """It has no file, and its name is free."""
    with serving("gate", registry=test_registry) as running, grpc.insecure_channel(running.address) as channel:
        stream = SharedStream(EmbeddingServiceStub(channel), "gate")
        stream.finish()
    with pytest.raises(ConnectionRefusedError, match="refused"):
        connected(stream.offer)

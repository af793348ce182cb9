"""Clients that read after the server has given up: grpcio takes messages that no window lets go, the front does not."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2
from midrib.wire import encode_tensor
from server.tests.grpc.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NO_FLAGS,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    frame,
    head,
    message,
)

STREAM = b"/midrib.v1.EmbeddingService/EmbedStream"
NO_WINDOW = PREFACE + frame(SETTINGS, NO_FLAGS, 0, struct.pack(">HI", 4, 0))
ROWS = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
MESSAGES = (
    embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="linear")),
    embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=1, input=ROWS)),
)


@pytest.fixture()
def hasty(test_registry: Registry) -> Iterator[RunningServer]:
    """A server that gives up a stream whose client reads nothing for 0.2 s, and its connection after 0.8 s."""
    with serving("linear", registry=test_registry, front="asyncio", fronts=1, max_unread_s=0.2) as running:
        yield running


async def something_is_held(server: RunningServer, *, expected: bool) -> None:
    while bool(server.server.embedder.in_flight.held) is not expected:
        await asyncio.sleep(0.01)


def test_a_client_that_reads_late_gets_the_status_of_its_stream(hasty: RunningServer) -> None:
    """The stream ends after `max_unread_s`; its status follows the message that waits for the client."""
    holding = hasty.start(something_is_held(hasty, expected=True))
    with closing(Connection(hasty.address, NO_WINDOW)) as connection:
        connection.send([frame(HEADERS, END_HEADERS, 1, head(path=STREAM))])
        connection.send(frame(DATA, NO_FLAGS, 1, message(part.SerializeToString())) for part in MESSAGES)
        holding.result(20)
        hasty.run(something_is_held(hasty, expected=False), timeout=20)
        connection.send(frame(WINDOW_UPDATE, NO_FLAGS, stream, struct.pack(">I", 2**20)) for stream in (0, 1))
        assert connection.until(HEADERS, flags=END_STREAM)


def test_a_request_that_is_not_grpc_is_refused_by_an_http_status(hasty: RunningServer) -> None:
    """Another content type is 415: HPACK's literal of the status, and no message."""
    strange = head(path=STREAM).replace(b"application/grpc", b"application/json")
    with closing(Connection(hasty.address)) as connection:
        connection.send([frame(HEADERS, END_HEADERS | END_STREAM, 1, strange)])
        assert connection.until(HEADERS, flags=END_STREAM, payload=b"\x07:status\x03415")

"""The loop of a stream, with a context that cannot be written or is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.server._grpc.embedding_service import serve_embed_stream
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2
from midrib.wire import StreamProtocolError, encode_tensor, status_to_error
from tests.invalid_requests import (
    REGISTRY,
    STREAM,
    talk,
)

pytestmark = pytest.mark.usefixtures("front")


@pytest.fixture(scope="module")
def server(front: str) -> Iterator[RunningServer]:
    with serving("double", "words", registry=REGISTRY, front=front, max_message_bytes=16 * 1024) as running:
        yield running


@pytest.fixture()
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as opened:
        yield opened


class UnwritableContext:
    """A call whose messages cannot be written."""

    def time_remaining(self) -> None:
        return None

    async def write(self, message: object) -> None:
        raise ConnectionError("cannot write")


async def only_open() -> AsyncIterator[embedding_pb2.EmbedStreamRequest]:
    """A client that opens its stream, sends an item, and then neither continues nor ends."""
    rows = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
    yield embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=1, input=rows))
    await asyncio.Event().wait()


def test_a_stream_that_cannot_be_written_ends(server: RunningServer) -> None:
    """It does not wait for answers that will never be written, and holds nothing."""
    context: Any = UnwritableContext()
    opened = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))
    stream = serve_embed_stream(server.server.embedder, context, opened, only_open())
    with pytest.raises(ConnectionError, match="cannot write"):
        server.run(stream, timeout=20)
    assert server.server.embedder.in_flight.held == 0


def test_an_answer_that_cannot_be_put_down_is_that_items_error(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream ends; it does not wait forever for an answer that will not be written."""
    monkeypatch.setattr("midrib.server._calls.embedder.apply_options", None)
    opened = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))
    rows = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
    item = embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=1, input=rows))
    _, answer = talk(channel, STREAM, [opened.SerializeToString(), item.SerializeToString()])
    assert status_to_error(embedding_pb2.EmbedStreamResponse.FromString(answer).result.error).reason == "INTERNAL"


class SlowContext:
    """A call that notes whether a message was given up while it was written."""

    def __init__(self) -> None:
        self.written: list[str | None] = []

    def time_remaining(self) -> None:
        return None

    async def write(self, message: embedding_pb2.EmbedStreamResponse) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        self.written.append(message.WhichOneof("message"))


async def opened_twice() -> AsyncIterator[embedding_pb2.EmbedStreamRequest]:
    yield embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))


def test_a_message_is_written_before_its_stream_is_refused(server: RunningServer) -> None:
    """gRPC loses the status of a call that is ended in the middle of its first message: the client would hang."""
    context: Any = SlowContext()
    opened = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))
    stream = serve_embed_stream(server.server.embedder, context, opened, opened_twice())
    with pytest.raises(StreamProtocolError, match="a stream is opened once"):
        server.run(stream, timeout=20)
    assert context.written == ["opened"]

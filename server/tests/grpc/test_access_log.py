"""With `access_log` each gRPC call is one line of the log, as each HTTP request is."""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server._observability.logs import JsonFormatter
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from server.tests.grpc.http2_frames import END_HEADERS, END_STREAM, HEADERS, Connection, frame, head

pytestmark = pytest.mark.usefixtures("front")

LOGGER = "midrib.server._grpc.interceptors.access_log"
TEXTS = embedding_pb2.Input(texts=embedding_pb2.Texts(texts=["a", "b"]))
EMBED = "/midrib.v1.EmbeddingService/Embed"
STREAM = "/midrib.v1.EmbeddingService/EmbedStream"
TOKEN, ENTRY = new_token("team-a", [Scope.READ, Scope.EMBED])
METADATA = [("authorization", f"Bearer {TOKEN}")]


def embed(running: RunningServer, backbone: str, metadata: Any = METADATA) -> Any:
    with grpc.insecure_channel(running.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(backbone=backbone, input=TEXTS)
        return stub.Embed(request, metadata=metadata, timeout=20)


def embed_stream(running: RunningServer, messages: Iterator[Any]) -> list[Any]:
    with grpc.insecure_channel(running.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        return list(stub.EmbedStream(messages, metadata=METADATA, timeout=20))


def stream_of(items: int) -> Iterator[Any]:
    yield embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="words"))
    for item in range(items):
        yield embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=item, input=TEXTS))


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    formatter = JsonFormatter()
    return [json.loads(formatter.format(record)) for record in caplog.records if record.name == LOGGER]


@pytest.fixture()
def settings(tmp_path: Path) -> dict[str, Any]:
    """Tokens, and the access log."""
    path = tmp_path / "tokens.toml"
    path.write_text(ENTRY)
    return {"tokens": path, "access_log": True}


def test_a_token_with_a_wrong_byte_is_refused_and_not_logged(
    settings: dict[str, Any], test_registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """grpcio would log the header, and anyone could fill the log."""
    value = b"Bearer " + TOKEN.encode() + b"\xff"
    with serving("words", registry=test_registry, **settings) as running, closing(Connection(running.address)) as raw:
        raw.send([frame(HEADERS, END_HEADERS | END_STREAM, 1, head((b"authorization", value)))])
        assert raw.until(HEADERS, flags=END_STREAM)
    assert [line["status"] for line in lines(caplog)] == ["UNAUTHENTICATED"]
    assert TOKEN not in caplog.text


def test_each_call_is_a_line(
    settings: dict[str, Any], test_registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """With its status, the reason of a refusal and the name of the token; the bytes are those of the answer."""
    with serving("words", registry=test_registry, **settings) as running:
        answer = embed(running, "words")
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            embed(running, "absent")
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            embed(running, "words", metadata=[])
    fields = [(line["method"], line["status"], line["reason"], line["token"]) for line in lines(caplog)]
    assert fields == [
        (EMBED, "OK", "", "team-a"),
        (EMBED, "NOT_FOUND", "BACKBONE_NOT_FOUND", "team-a"),
        (EMBED, "UNAUTHENTICATED", "UNAUTHENTICATED", ""),
    ]
    assert lines(caplog)[0]["bytes"] == answer.ByteSize()
    assert all(TOKEN not in record.getMessage() + str(record.__dict__) for record in caplog.records)


def test_a_stream_is_one_line(
    settings: dict[str, Any], test_registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """With the bytes of all its answers."""
    with serving("words", registry=test_registry, **settings) as running:
        answers = embed_stream(running, stream_of(items=3))
    (line,) = lines(caplog)
    assert (line["method"], line["status"], line["token"]) == (STREAM, "OK", "team-a")
    assert (len(answers), line["bytes"]) == (4, sum(answer.ByteSize() for answer in answers))


def test_a_call_that_its_client_leaves_is_a_line(
    settings: dict[str, Any], test_registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with the status CANCELLED."""
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    messages.put(next(stream_of(items=0)))
    with serving("words", registry=test_registry, **settings) as running:
        with grpc.insecure_channel(running.address) as channel:
            stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            call = stub.EmbedStream(iter(messages.get, None), metadata=METADATA, timeout=20)
            next(call)
            call.cancel()
            messages.put(None)
        embed(running, "words")
    assert ("CANCELLED", STREAM) in [(line["status"], line["method"]) for line in lines(caplog)]


def test_without_the_setting_nothing_is_logged(test_registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged without it, even if the log shows every level."""
    caplog.set_level(logging.DEBUG)
    with serving("words", registry=test_registry) as running:
        embed(running, "words", metadata=[])
    assert lines(caplog) == []

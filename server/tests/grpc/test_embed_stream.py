"""EmbedStream, by plain generated stubs: ids, per-item status, back-pressure, draining."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.v1.embedding_pb2 import EmbedStreamRequest, EmbedStreamResponse
from midrib.wire import decode_tensor, encode_tensor, status_to_error
from server.tests.shared_memory.shared_route import SharedRoute

StubOf = Callable[[grpc.Channel], Any]


@pytest.fixture(params=["messages", "shared memory"])
def stub_of(request: pytest.FixtureRequest) -> StubOf:
    """Return a stub whose items travel by one of the two routes."""

    def stub(channel: grpc.Channel) -> Any:
        messages = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        return messages if request.param == "messages" else SharedRoute(messages)

    return stub


@pytest.fixture()
def embedding(channel: grpc.Channel, stub_of: StubOf) -> Any:
    return stub_of(channel)


pytestmark = pytest.mark.usefixtures("front")


def opening(backbone: str = "gate", **fields: Any) -> EmbedStreamRequest:
    return EmbedStreamRequest(open=embedding_pb2.Open(backbone=backbone, **fields))


def item(number: int, *values: float) -> EmbedStreamRequest:
    rows = np.array([values], dtype=np.float32)
    tensor = embedding_pb2.Input(tensor=encode_tensor(rows))
    return EmbedStreamRequest(item=embedding_pb2.Item(id=number, input=tensor))


class Conversation:
    """A stream that the test drives message by message."""

    def __init__(self, stub: Any, *first: EmbedStreamRequest) -> None:
        self._requests: queue.SimpleQueue[EmbedStreamRequest | None] = queue.SimpleQueue()
        self.call = stub.EmbedStream(iter(self._requests.get, None), timeout=20)
        self.send(*first)

    def send(self, *requests: EmbedStreamRequest) -> None:
        for request in requests:
            self._requests.put(request)

    def hear(self) -> EmbedStreamResponse:
        return next(self.call)  # type: ignore[no-any-return] # grpc's iterator is untyped

    def finish(self) -> list[EmbedStreamResponse]:
        self._requests.put(None)
        return list(self.call)


def rows_by_id(responses: list[EmbedStreamResponse]) -> dict[int, list[float]]:
    return {response.result.id: decode_tensor(response.result.embedding)[0].tolist() for response in responses}


def test_a_stream_opens_answers_and_ends(embedding: Any) -> None:
    """`opened` first, then one result an item, by the client's ids."""
    opened, *results = embedding.EmbedStream(iter([opening(), item(7, 1, 2), item(3, 4, 5)]), timeout=10)
    assert (opened.opened.num_features, opened.opened.limits.max_stream_items) == (2, 1024)
    assert rows_by_id(results) == {7: [2, 4], 3: [8, 10]}


def test_a_bad_item_spoils_only_itself(embedding: Any) -> None:
    """Its result is a status; the stream continues."""
    talk = [opening(), item(1, 1, 2), item(2, 1, 2, 3), item(3, 666, 0), item(4, 3, 4)]
    _, *results = embedding.EmbedStream(iter(talk), timeout=10)
    errors = {
        response.result.id: status_to_error(response.result.error).reason
        for response in results
        if response.result.HasField("error")
    }
    fine = [response for response in results if response.result.HasField("embedding")]
    assert errors == {2: "INVALID_INPUT", 3: "INTERNAL"}
    assert rows_by_id(fine) == {1: [2, 4], 4: [6, 8]}


def test_an_id_in_flight_cannot_be_used_twice(embedding: Any, gate: Any) -> None:
    """The second is refused, the first is answered; then the id is free again."""
    talk = Conversation(embedding, opening(), item(5, 13, 1))
    talk.hear()
    assert gate.passing.wait(10)
    talk.send(item(5, 1, 1))
    refused = talk.hear().result
    gate.opened.set()
    first = talk.hear()
    talk.send(item(5, 2, 2))
    last = talk.hear()
    assert status_to_error(refused.error).reason == "DUPLICATE_ITEM"
    assert [rows_by_id([first]), rows_by_id([last])] == [{5: [26, 2]}, {5: [4, 4]}]
    assert talk.finish() == []


@pytest.mark.parametrize(
    ("talk", "code", "words"),
    [
        pytest.param([item(1, 1, 2)], grpc.StatusCode.FAILED_PRECONDITION, "must be `open`", id="item before open"),
        pytest.param([opening(), opening()], grpc.StatusCode.FAILED_PRECONDITION, "opened once", id="opened twice"),
        pytest.param([opening("gat")], grpc.StatusCode.NOT_FOUND, "did you mean", id="unknown backbone"),
        pytest.param([opening(revision="0")], grpc.StatusCode.FAILED_PRECONDITION, "connect again", id="revision"),
        pytest.param(
            [opening(options=embedding_pb2.Options(dimensions=9))],
            grpc.StatusCode.INVALID_ARGUMENT,
            r"1\.\.2",
            id="options",
        ),
    ],
)
def test_a_fault_of_the_stream_ends_it(
    embedding: Any, talk: list[EmbedStreamRequest], code: grpc.StatusCode, words: str
) -> None:
    """The stream's own status says why."""
    with pytest.raises(grpc.RpcError, match=words) as caught:
        list(embedding.EmbedStream(iter(talk), timeout=10))
    assert caught.value.code() is code


def test_a_stream_without_messages_ends_quietly(embedding: Any) -> None:
    """Without an item no result is sent."""
    assert list(embedding.EmbedStream(iter([]), timeout=10)) == []


def test_results_come_as_they_are_ready(embedding: Any, gate: Any) -> None:
    """A slow item does not hold up an item of another stream."""
    slow = Conversation(embedding, opening(), item(1, 13, 0))
    slow.hear()
    assert gate.passing.wait(10)
    other = list(embedding.EmbedStream(iter([opening("linear"), item(1, 1, 2)]), timeout=10))
    gate.opened.set()
    assert len(other) == 2
    assert rows_by_id(slow.finish()) == {1: [26, 0]}


@pytest.fixture()
def narrow(test_registry: Registry) -> Iterator[RunningServer]:
    """A server that lets a stream hold two items in flight."""
    with serving("gate", registry=test_registry, max_stream_items=2) as running:
        yield running


def test_the_server_reads_no_further_than_its_limit(narrow: RunningServer, gate: Any, stub_of: StubOf) -> None:
    """The third item is read only once one of the first two is answered; all are answered in the end."""
    with grpc.insecure_channel(narrow.address) as channel:
        talk = Conversation(stub_of(channel), opening())
        talk.hear()
        talk.send(item(0, 13, 0))
        assert gate.passing.wait(10)
        talk.send(*(item(number, number, 0) for number in range(1, 6)))
        batcher = narrow.server.catalogue.entry("gate").ready().served.batcher
        gate.opened.set()
        results = talk.finish()
        assert rows_by_id(results) == {0: [26, 0], 1: [2, 0], 2: [4, 0], 3: [6, 0], 4: [8, 0], 5: [10, 0]}
        assert batcher.counts.accepted == 6


def test_draining_sends_go_away_and_answers_the_items_that_were_read(
    test_registry: Registry, gate: Any, stub_of: StubOf
) -> None:
    """No accepted item is lost."""
    with serving("gate", registry=test_registry) as running, grpc.insecure_channel(running.address) as channel:
        talk = Conversation(stub_of(channel), opening(), item(1, 13, 0))
        talk.hear()
        assert gate.passing.wait(10)
        stopping = running.start(running.server.stop(10.0))
        goodbye = talk.hear()
        gate.opened.set()
        assert goodbye.WhichOneof("message") == "go_away"
        assert rows_by_id([talk.hear()]) == {1: [26, 0]}
        assert talk.finish() == []
        stopping.result(20)

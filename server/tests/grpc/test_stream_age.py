"""Streams that reach `max_stream_age_s` are opened again, and lose nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.registry import Registry
from midrib.remote import Client
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2_grpc
from server.tests.grpc.test_embed_stream import Conversation, item, opening, rows_by_id
from server.tests.oip.test_stream import Conversation as InferConversation
from server.tests.oip.test_stream import asking

pytestmark = pytest.mark.usefixtures("front")

AGE_S = 0.1


@pytest.fixture()
def aging(test_registry: Registry) -> Iterator[RunningServer]:
    with serving("gate", registry=test_registry, max_stream_age_s=AGE_S) as running:
        yield running


def test_an_old_stream_sends_go_away_and_answers_the_items_that_were_read(aging: RunningServer, gate: Any) -> None:
    """The item that computes when the stream reaches its age is answered after GoAway; then the stream ends."""
    with grpc.insecure_channel(aging.address) as channel:
        talk = Conversation(embedding_pb2_grpc.EmbeddingServiceStub(channel), opening(), item(1, 13, 1))
        talk.hear()
        goodbye = talk.hear()
        gate.opened.set()
        assert "max_stream_age_s" in goodbye.go_away.reason
        assert [rows_by_id([answer]) for answer in talk.call] == [{1: [26, 2]}]


def test_a_stream_is_renewed_before_its_connection_closes(test_registry: Registry) -> None:
    """Some proxies hide the close from a client. The grace begins when the connection reaches its age."""
    with (
        serving("gate", registry=test_registry, max_connection_age_s=60.0, drain_grace_s=1.0) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        old = Conversation(embedding_pb2_grpc.EmbeddingServiceStub(channel), opening())
        assert [message.WhichOneof("message") for message in old.call] == ["opened", "go_away"]


def test_our_client_loses_nothing_as_its_streams_age(aging: RunningServer) -> None:
    """Calls until the fifth stream: every answer is right, and its caller sees no error."""
    with Client(aging.address) as client:
        numbers = (number for number in range(1000, 10**6) if aging.server.embedder.calls < 5)
        answers = [(number, client.embed("gate", np.full((1, 2), number, np.float32)).tolist()) for number in numbers]
    assert answers == [(number, [[2 * number, 2 * number]]) for number, _ in answers]


def test_streams_that_began_together_end_apart(test_registry: Registry) -> None:
    """Their ages spread over 20 % to either side, so that clients do not all return at the same time."""
    with (
        serving("gate", registry=test_registry, max_stream_age_s=1.0) as running,
        grpc.insecure_channel(running.address) as channel,
        ThreadPoolExecutor(20) as threads,
    ):
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        began = time.monotonic()
        talks = [Conversation(stub, opening()) for _ in range(20)]
        ages = list(threads.map(lambda talk: (list(talk.call), time.monotonic() - began)[1], talks))
    assert min(ages) >= 0.8
    assert max(ages) - min(ages) > 0.1


def test_a_stream_without_go_away_never_ages(aging: RunningServer, gate: Any) -> None:
    """The Open Inference Protocol has no message for it, and its clients would see an error."""
    with grpc.insecure_channel(aging.address) as channel:
        talk = InferConversation(channel, asking("a", 13, 1))
        old = Conversation(embedding_pb2_grpc.EmbeddingServiceStub(channel), opening())
        assert [message.WhichOneof("message") for message in old.call] == ["opened", "go_away"]
        gate.opened.set()
        (answer,) = talk.finish()
        assert answer.infer_response.id == "a"

"""A server that describes a new revision at each call, and serves another one: clients pause between attempts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.registry import TensorInput
from midrib.remote import AsyncClient, Client
from midrib.remote._clients.sessions import RevisionChanges
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from midrib.v1.tensor_pb2 import DATA_TYPE_FLOAT32
from midrib.wire import RevisionMismatchError, encode_input_spec

NAME = "test/alternating/rows"
ROWS = np.ones((1, 2), np.float32)
# Pauses of 0.05, 0.1, 0.2 and 0.4 s are in 1 s, and the next one is not.
TIMEOUT_S, MOST_DESCRIPTIONS = 1.0, 6


class AlternatingServer(backbone_pb2_grpc.BackboneServiceServicer, embedding_pb2_grpc.EmbeddingServiceServicer):
    """Answers no item.  descriptions: the number of those that it gave."""

    def __init__(self) -> None:
        self.descriptions = 0

    def GetBackbone(self, request: Any, context: Any) -> backbone_pb2.GetBackboneResponse:  # noqa: N802 - gRPC's name
        """Return a description with a new revision."""
        self.descriptions += 1
        described = backbone_pb2.Backbone(
            name=NAME,
            revision=f"revision {self.descriptions}",
            num_features=2,
            input=encode_input_spec(TensorInput((2,))),
            state=backbone_pb2.BACKBONE_STATE_READY,
            compute_dtype=DATA_TYPE_FLOAT32,
        )
        return backbone_pb2.GetBackboneResponse(backbone=described)

    def EmbedStream(self, requests: Any, context: Any) -> Iterator[embedding_pb2.EmbedStreamResponse]:  # noqa: N802
        """Open a stream of a revision that was never described."""
        next(requests)
        yield embedding_pb2.EmbedStreamResponse(opened=embedding_pb2.Opened(revision="another"))


@pytest.fixture()
def alternating() -> Iterator[tuple[AlternatingServer, str]]:
    """A server, and its address."""
    servicer, server = AlternatingServer(), grpc.server(ThreadPoolExecutor(4))
    backbone_pb2_grpc.add_BackboneServiceServicer_to_server(servicer, server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait(10)


def test_a_call_pauses_between_changes(alternating: tuple[AlternatingServer, str]) -> None:
    """It ends with the error within its timeout."""
    server, address = alternating
    with Client(address, timeout=TIMEOUT_S) as client, pytest.raises(RevisionMismatchError, match="serves revision"):
        client.embed(NAME, ROWS)
    assert 2 <= server.descriptions <= MOST_DESCRIPTIONS


def test_a_stream_pauses_between_changes(alternating: tuple[AlternatingServer, str]) -> None:
    """It pauses as a call does, so that it does not switch between two servers all the time."""
    server, address = alternating
    with Client(address, timeout=TIMEOUT_S) as client, pytest.raises(RevisionMismatchError, match="serves revision"):
        list(client.embed_stream(NAME, [ROWS]))
    assert 2 <= server.descriptions <= MOST_DESCRIPTIONS


async def test_an_asynchronous_call_and_stream_pause_between_changes(
    alternating: tuple[AlternatingServer, str],
) -> None:
    """Each as the synchronous one does."""
    server, address = alternating
    async with AsyncClient(address, timeout=TIMEOUT_S) as client:
        with pytest.raises(RevisionMismatchError, match="serves revision"):
            await client.embed(NAME, ROWS)
        with pytest.raises(RevisionMismatchError, match="serves revision"):
            [features async for features in client.embed_stream(NAME, [ROWS])]
    assert 4 <= server.descriptions <= 2 * MOST_DESCRIPTIONS


def test_the_first_change_is_followed_at_once() -> None:
    """It is an upgrade; the pauses before further ones grow, up to the limit of changes."""
    changes = RevisionChanges(follows=True, timeout=1000.0)
    pauses = [changes.next_pause_s() for _ in range(31)]
    assert pauses[0] == 0
    assert pauses[1] is not None
    assert pauses[5] is not None
    assert pauses[30] is None
    assert 0.05 <= pauses[1] < 0.4 < pauses[5]


def test_a_pinned_revision_is_not_followed() -> None:
    """The caller chose the revision, so another one is an error."""
    assert RevisionChanges(follows=False, timeout=1000.0).next_pause_s() is None


def test_no_change_is_followed_after_a_result() -> None:
    """The results of a stream are of one revision."""
    changes = RevisionChanges(follows=True, timeout=1000.0)
    changes.end()
    assert changes.next_pause_s() is None

"""Limits of a real server for calls, connections and items."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2

from midrib.registry import AbstractRegistry
from midrib.server.testing import serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc, tensor_pb2
from midrib.wire import encode_tensor, status_to_error

pytestmark = pytest.mark.usefixtures("front")

ROW = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
EMBED = embedding_pb2.EmbedRequest(backbone="linear", input=ROW)


def test_headers_over_the_limit_are_refused(channel: grpc.Channel) -> None:
    """Before any of our code sees them."""
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
        stub.Embed(EMBED, timeout=10, metadata=[("x-padding", "y" * 40_000)])


def test_a_message_over_the_limit_is_refused(test_registry: AbstractRegistry) -> None:
    """Its length is checked before it is held."""
    large = embedding_pb2.Input(tensor=encode_tensor(np.ones((4000, 2), np.float32)))
    with (
        serving("linear", registry=test_registry, max_message_bytes=4096) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            stub.Embed(embedding_pb2.EmbedRequest(backbone="linear", input=large), timeout=10)


def test_a_large_request_to_a_method_without_data_is_refused_with_a_reason(channel: grpc.Channel) -> None:
    """The same on each front, also on one that refuses it before it arrives."""
    call: Any = channel.unary_unary("/midrib.v1.BackboneService/LoadBackbone")
    with pytest.raises(grpc.RpcError, match="100000 bytes, at most 65536 are accepted: shorten") as caught:
        call(bytes(100_000), timeout=10)
    error: Any = caught.value
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert status_to_error(status_pb2.Status.FromString(details)).reason == "LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    ("tensor", "code", "words"),
    [
        pytest.param(
            encode_tensor(np.ones((1025, 2), np.float32)),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "1025 rows .* at most 1024 rows",
            id="rows",
        ),
        pytest.param(
            tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[1] * 9, data=bytes(4)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "9 dimensions, at most 8",
            id="rank",
        ),
        pytest.param(
            tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[1] * 100_000, data=bytes(4)),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "more than 9216 elements",
            id="a rank of 100,000",
        ),
        pytest.param(
            tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2**62, 2, 0]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "overflows 63 bits",
            id="rows of no bytes, without end",
        ),
    ],
)
def test_a_tensor_over_a_limit_is_refused(
    channel: grpc.Channel, tensor: tensor_pb2.Tensor, code: grpc.StatusCode, words: str
) -> None:
    """The error names the limit."""
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    request = embedding_pb2.EmbedRequest(backbone="linear", input=embedding_pb2.Input(tensor=tensor))
    with pytest.raises(grpc.RpcError, match=words) as caught:
        stub.Embed(request, timeout=10)
    assert caught.value.code() is code

"""Limits of a real server on what a call, a connection and an item may be."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from midrib.registry import AbstractRegistry
from midrib.server.testing import serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

ROW = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
EMBED = embedding_pb2.EmbedRequest(backbone="linear", input=ROW)


def test_headers_over_the_limit_are_refused(channel: grpc.Channel) -> None:
    """Before any of our code sees them."""
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
        stub.Embed(EMBED, timeout=10, metadata=[("x-padding", "y" * 40_000)])


def test_a_message_over_the_limit_is_refused(test_registry: AbstractRegistry) -> None:
    """By its length, before it is held."""
    large = embedding_pb2.Input(tensor=encode_tensor(np.ones((4000, 2), np.float32)))
    with (
        serving("linear", registry=test_registry, max_message_bytes=4096) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            stub.Embed(embedding_pb2.EmbedRequest(backbone="linear", input=large), timeout=10)


def test_a_flood_of_pings_closes_its_connection(test_registry: AbstractRegistry) -> None:
    """Keepalives that come too often cost the sender its connection; ENHANCE_YOUR_CALM is HTTP/2's word for it."""
    impatient = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with (
        serving("gate", registry=test_registry, min_ping_interval_s=60) as running,
        grpc.insecure_channel(running.address, options=impatient) as channel,
    ):
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        held = stub.EmbedStream(iter(lambda: embedding_pb2.EmbedStreamRequest(), None), timeout=30)
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE|FAILED_PRECONDITION"):
            list(held)

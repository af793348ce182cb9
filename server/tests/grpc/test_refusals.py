"""Every method of every service, without a token and with an empty request: a status, and nothing in the log."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from midrib.oip.v2 import inference_pb2
from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server._grpc.codecs.messages import EmbedCall
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

pytestmark = pytest.mark.usefixtures("front")

LARGE = np.ones((1, 2**16), np.float32)
FILES = (backbone_pb2, embedding_pb2, health_pb2, reflection_pb2, inference_pb2)
METHODS = [
    f"/{service.full_name.replace('midrib.oip.v2', 'inference')}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
PUBLIC = {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}


@pytest.fixture(scope="module")
def guarded(front: str, tmp_path_factory: pytest.TempPathFactory, test_registry: Registry) -> Iterator[RunningServer]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    tokens.write_text(new_token("tenant", [Scope.EMBED, Scope.READ, Scope.ADMIN])[1])
    with serving("linear", registry=test_registry, front=front, tokens=tokens, admin=True) as running:
        yield running


@pytest.mark.parametrize("method", [method for method in METHODS if method not in PUBLIC])
def test_a_method_without_a_token_is_refused_quietly(
    guarded: RunningServer, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """UNAUTHENTICATED, or UNIMPLEMENTED; a scanner cannot fill the log with tracebacks."""
    with grpc.insecure_channel(guarded.address) as channel, caplog.at_level(logging.WARNING):
        call: Any = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError, match="token|not offered here") as caught:
            call(b"", timeout=20)
        assert caught.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)
    assert caplog.records == []


def refused(stub: Any, request: embedding_pb2.EmbedRequest) -> bool:
    with pytest.raises(grpc.RpcError, match="takes"):
        stub.Embed(request, timeout=20)
    return True


def requests_in_memory() -> int:
    return sum(type(left) is EmbedCall for left in gc.get_objects())


@pytest.mark.parametrize(
    "settings",
    [pytest.param({}, id="plain"), pytest.param({"access_log": True}, id="logged")],
)
def test_a_refused_call_leaves_no_request_in_memory(
    front: str, test_registry: Registry, settings: dict[str, Any]
) -> None:
    """gRPC keeps the error of a refused call until the next garbage collection: it refers to no request."""
    with (
        serving("linear", registry=test_registry, front=front, **settings) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(backbone="linear", input=embedding_pb2.Input(tensor=encode_tensor(LARGE)))
        gc.disable()
        try:
            calls = (refused(stub, request) for _ in range(100))
            assert all(itertools.islice(calls, 10))
            # The handler of the last call may not have returned yet.
            assert next(True for _ in calls if requests_in_memory() < 3)
        finally:
            gc.enable()

"""Every method of every service, without a token and with an empty request: a status, and nothing in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from midrib.oip.v2 import inference_pb2
from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, embedding_pb2

pytestmark = pytest.mark.usefixtures("front")

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

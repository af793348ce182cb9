"""Servers over both fronts, in this process and in another one, and connections that send any frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2_grpc, embedding_pb2_grpc
from server.tests.conftest import REGISTRY
from server.tests.grpc.http2_frames import Connection
from server.tests.grpc.server_process import ServerProcess


@pytest.fixture(scope="session")
def server(front: str) -> Iterator[RunningServer]:
    """Serves `gate` and `linear` over each front."""
    with serving("gate", "linear", registry=REGISTRY, front=front) as running:
        yield running


@pytest.fixture(scope="session")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(scope="session")
def embedding(channel: grpc.Channel) -> Any:
    return embedding_pb2_grpc.EmbeddingServiceStub(channel)


@pytest.fixture(scope="session")
def backbones(channel: grpc.Channel) -> Any:
    return backbone_pb2_grpc.BackboneServiceStub(channel)


@pytest.fixture(scope="session")
def server_process(front: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for hostile connections; at the end it stops cleanly, and its log never shows the token."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    yield process
    status = process.stop()
    assert (status, process.secret in process.log) == (0, False)


@pytest.fixture()
def connection(server_process: ServerProcess) -> Iterator[Connection]:
    """A connection to it."""
    opened = Connection(server_process.address)
    yield opened
    opened.close()

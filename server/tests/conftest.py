"""A real server for the tests of its services, and plain generated stubs to call it with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2_grpc, embedding_pb2_grpc

REGISTRY = Registry("for tests")


class Gate(nn.Module):
    """Doubles its rows; each forward pass of a closed gate waits until the test opens it."""

    opened = threading.Event()
    passing = threading.Event()

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == 13).any()):
            self.passing.set()
            self.opened.wait(20)
        if bool((rows == 666).any()):
            raise RuntimeError("secret detail of the device")
        return rows * 2


@REGISTRY(name="gate", namespace="test/embedding", input=TensorInput((2,)))
def load_gate() -> tuple[nn.Module, int]:
    return Gate(), 2


@REGISTRY(name="linear", namespace="test/embedding", input=TensorInput((2,)))
def load_linear(num_features: int = 3, seed: int = 0, checkpoint: str = "") -> tuple[nn.Module, int]:
    torch.manual_seed(seed)
    return nn.Linear(2, num_features), num_features


@pytest.fixture()
def gate() -> Iterator[type[Gate]]:
    """A row of 13s waits in the device until `gate.opened` is set."""
    Gate.opened.clear()
    Gate.passing.clear()
    yield Gate
    Gate.opened.set()


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """Serves `gate` and `linear`."""
    with serving("gate", "linear", registry=REGISTRY) as running:
        yield running


@pytest.fixture(scope="session")
def test_registry() -> Registry:
    """Where `gate` and `linear` are registered."""
    return REGISTRY


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

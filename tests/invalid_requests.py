"""Backbones that fail or look up ids, and plain calls of them."""

from __future__ import annotations

import threading
from typing import Any

import grpc
from google.rpc import status_pb2
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput, TextInput
from midrib.v1 import embedding_pb2
from midrib.wire import Array, MidribError, encode_tensor, status_to_error

REGISTRY = Registry("found by fuzz")
EMBED = "/midrib.v1.EmbeddingService/Embed"
STREAM = "/midrib.v1.EmbeddingService/EmbedStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
GARBAGE = b"\xff\xff\xff no message"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Double(nn.Module):
    """Doubles its rows."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows * 2


class Words(nn.Module):
    """Looks its ids up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 4, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.table(ids)
        return vectors.sum(1)


@REGISTRY(name="double", namespace="test/embedding", input=TensorInput((2,)))
def load_double() -> tuple[nn.Module, int]:
    return Double(), 2


@REGISTRY(name="words", namespace="text/embedding", input=TextInput(8))
def load_words() -> tuple[nn.Module, int]:
    return Words(), 4


class Fragile(nn.Module):
    """Doubles until a row of -13s comes: then the device is gone, for all threads and for modules loaded later."""

    device_is_gone = False

    def forward(self, rows: Tensor) -> Tensor:
        if (rows == -13).any():
            Fragile.device_is_gone = True
        if Fragile.device_is_gone:
            raise RuntimeError("the device is gone")
        return rows * 2


@REGISTRY(name="fragile", namespace="test/embedding", input=TensorInput((2,)))
def load_fragile() -> tuple[nn.Module, int]:
    return Fragile(), 2


@REGISTRY(name="unreadable", namespace="test/embedding", input=TensorInput((2,)))
def load_unreadable() -> tuple[nn.Module, int]:
    raise OSError("cannot read /srv/weights/secret.safetensors")


@REGISTRY(name="late", namespace="test/embedding", input=TensorInput((2,)))
def load_late() -> tuple[nn.Module, int]:
    """Loads once the test lets it."""
    LOADING.set()
    MAY_LOAD.wait(20)
    return Double(), 2


LOADING, MAY_LOAD = threading.Event(), threading.Event()


def request(rows: Array, backbone: str = "double", **options: Any) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(
        backbone=backbone,
        input=embedding_pb2.Input(tensor=encode_tensor(rows)),
        options=embedding_pb2.Options(**options),
    )


def call(channel: grpc.Channel, method: str, data: bytes) -> bytes:
    untyped: Any = channel.unary_unary(method)
    answer: bytes = untyped(data, timeout=20)
    return answer


def talk(channel: grpc.Channel, method: str, messages: list[bytes]) -> list[bytes]:
    untyped: Any = channel.stream_stream(method)
    return list(untyped(iter(messages), timeout=20))


def refusal(error: Any) -> MidribError:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return status_to_error(status_pb2.Status.FromString(details))

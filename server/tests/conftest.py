"""A real server for the tests of its services, and plain generated stubs to call it with."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import torch
from torch import Tensor, nn

from midrib.registry import ImageInput, Registry, TensorInput, TextInput
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


class Picture(nn.Module):
    """The mean of each channel."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))


class Tokens(NamedTuple):
    ids: list[int]
    truncated: bool


class Words(nn.Module):
    """The mean of the words' vectors; a word is the sum of its bytes."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(100, num_features)

    def tokenizer(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([1 + sum(word.encode()) % 99 for word in text.split()][:8], False) for text in texts]

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0)[..., None].to(self.table.weight.dtype)
        total: Tensor = (self.table(ids) * mask).sum(1)
        return total / mask.sum(1).clamp(min=1)


@REGISTRY(name="picture", namespace="image/embedding", input=ImageInput(8))
def load_picture() -> tuple[nn.Module, int]:
    return Picture(), 3


@REGISTRY(name="words", namespace="text/embedding", input=TextInput(8))
def load_words(num_features: int = 4) -> tuple[nn.Module, int]:
    return Words(num_features), num_features


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
def media_server() -> Iterator[RunningServer]:
    """Serves `picture`, `words` and `linear`, over gRPC and HTTP; each row alone, so that answers equal to the bit."""
    with serving(
        "picture", "words", "linear", registry=REGISTRY, http_port=0, http_token_ids=True, strict=True
    ) as running:
        yield running


@pytest.fixture(scope="session")
def external_python() -> Callable[[str], Path]:
    """The Python of a venv with one requirement and what it needs, made once on this machine.

    Skips where nobody asked for it (MIDRIB_EXTERNAL=1), or where the index does not have it.
    """

    def python(requirement: str) -> Path:
        if os.environ.get("MIDRIB_EXTERNAL") != "1":
            pytest.skip(f"makes a venv with {requirement} from the package index: MIDRIB_EXTERNAL=1 runs it")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midrib-external"
        venv = cache / hashlib.sha256(requirement.encode()).hexdigest()[:12]
        if not (venv / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
            install = [str(venv / "bin/python"), "-m", "pip", "install", "-q", requirement]
            installed = subprocess.run(install, check=False, capture_output=True, text=True)
            if installed.returncode:
                pytest.skip(f"{requirement} cannot be installed here: {installed.stderr.strip()[-300:]}")
            (venv / "complete").touch()
        return venv / "bin/python"

    return python


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

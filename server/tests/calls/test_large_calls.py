"""A call of more rows than an item may have is computed as several items and answered as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from torch import Tensor, nn

from midrib.registry import AudioInput, Registry, TensorInput, TextInput
from midrib.server._calls.embedder import Embedded, Embedder
from midrib.server._calls.large_calls import embed_in_parts
from midrib.server._calls.requests import Caller
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2
from midrib.wire import LimitExceededError, encode_tensor

REGISTRY = Registry("large_calls")
ITEM_ROWS = 4
RATE = 16_000


class Tokens(NamedTuple):
    ids: list[int]
    truncated: bool


class Counting(nn.Module):
    """One feature: the number of elements of a row that are not 0. A text has a token for each word."""

    @staticmethod
    def tokenizer(texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([1] * len(text.split()), False) for text in texts]

    def forward(self, rows: Tensor) -> Tensor:
        return (rows != 0).sum(dim=1, keepdim=True).float()


@REGISTRY(name="tensors", namespace="test/embedding", input=TensorInput((None,)))
@REGISTRY(name="texts", namespace="test/embedding", input=TextInput(32))
@REGISTRY(name="clips", namespace="test/embedding", input=AudioInput(RATE))
def load_counting() -> tuple[nn.Module, int]:
    return Counting(), 1


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    names = ("tensors", "texts", "clips")
    with serving(*names, registry=REGISTRY, max_batch_rows=ITEM_ROWS, warm_up_s=0.0) as server:
        yield server


def embed(running: RunningServer, backbone: str, message: embedding_pb2.Input) -> Embedded:
    """Embed by a call of at most ten rows, and release its bytes, all of which are free again then."""
    embedder = Embedder(running.server.catalogue)
    request = embedding_pb2.EmbedRequest(backbone=backbone, input=message)
    embedded, release = running.run(embed_in_parts(embedder, request, Caller("test"), max_rows=10))
    release()
    assert embedder.in_flight.held == 0
    return embedded


def tensor(rows: int) -> embedding_pb2.Input:
    return embedding_pb2.Input(tensor=encode_tensor(np.tri(rows, 5, dtype=np.float32)))


def texts(rows: int) -> embedding_pb2.Input:
    return embedding_pb2.Input(texts=embedding_pb2.Texts(texts=["word " * (1 + row) for row in range(rows)]))


def clips(rows: int) -> embedding_pb2.Input:
    lengths = [encode_tensor(np.ones(1 + row, np.float32)) for row in range(rows)]
    return embedding_pb2.Input(audio=embedding_pb2.AudioClips(clips=lengths, rate=RATE))


@pytest.mark.parametrize("rows", [3, ITEM_ROWS, 5, 10])
@pytest.mark.parametrize(("backbone", "message"), [("texts", texts), ("clips", clips)])
def test_all_rows_are_answered_in_order(running: RunningServer, backbone: str, message: object, rows: int) -> None:
    """Padded to the longest of all, whichever part it was in."""
    embedded = embed(running, backbone, message(rows))  # type: ignore[operator] # one of the functions above
    assert embedded.features[:, 0].tolist() == [*range(1, rows + 1)]
    assert embedded.inputs.shape == (rows, rows)


def test_a_large_tensor_is_cut(running: RunningServer) -> None:
    """As any other input."""
    assert embed(running, "tensors", tensor(7)).features[:, 0].tolist() == [1, 2, 3, 4, 5, 5, 5]


def test_more_rows_than_the_call_takes_are_refused(running: RunningServer) -> None:
    """Before any of them is computed."""
    with pytest.raises(LimitExceededError, match="the call has 11 rows, at most 10 are taken"):
        embed(running, "texts", texts(11))

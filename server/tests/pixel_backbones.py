"""Backbones of test_pixels_on_the_wire.py, which a worker process imports too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from midrib.backbones import Tokens
from midrib.registry import ImageInput, Registry, TensorInput, TextInput

REGISTRY = Registry("pixels")
INPUT = ImageInput(4, width=5)


class Flattened(nn.Module):
    """Returns its input, flattened: a difference of one bit shows."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Vectors(nn.Module):
    """The sum of the vectors of a row's tokens; the token 0 has a vector too. Its ids go up to 99."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 4)
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, ids: Tensor) -> Tensor:
        vectors = self.table(ids.masked_fill(ids == -1, 0)) * (ids != 0).unsqueeze(-1)
        return vectors.sum(1)  # type: ignore[no-any-return] # a layer's call is untyped


class Table(Vectors):
    """Looks up every id, -1 too: outside its table."""

    def forward(self, ids: Tensor) -> Tensor:
        return (self.table(ids) * (ids != 0).unsqueeze(-1)).sum(1)  # type: ignore[no-any-return] # a layer's call is untyped


class Spelt(Vectors):
    """Has a tokenizer: each digit of a text is a token."""

    def tokenizer(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([int(digit) for digit in text], False) for text in texts]


@REGISTRY(name="flattened", namespace="test/embedding", input=INPUT)
def load_flattened() -> tuple[nn.Module, int]:
    return Flattened(), 60


@REGISTRY(name="rows", namespace="test/embedding", input=TensorInput((2,)))
def load_rows() -> tuple[nn.Module, int]:
    return nn.Identity(), 2


@REGISTRY(name="ids", namespace="test/embedding", input=TextInput(8))
def load_ids() -> tuple[nn.Module, int]:
    return Table(), 4


@REGISTRY(name="spelt", namespace="test/embedding", input=TextInput(8))
def load_spelt() -> tuple[nn.Module, int]:
    return Spelt(), 4

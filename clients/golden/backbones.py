"""Backbones whose answers are the same bits on every machine: `midrib serve --import clients.golden.backbones`.

They compute only with small integers, halves and quarters: float32 sums of these are exact in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from midrib.backbones import BACKBONES
from midrib.registry import AudioInput, ImageInput, TensorInput, TextInput

NAMESPACE = "golden/embedding"
NUM_FEATURES = 4
WEIGHT = ((1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 1, 0), (2, -1, 0, 1))
MAX_TOKENS = 8
RATE = 8000
IMAGE_SIZE = 4


class Exact(nn.Module):
    """Sum the elements of a row by their index modulo 4, and multiply the four sums by WEIGHT.

    levels: multiply by this and round first, to undo the scaling of pixels.  tokenizer: of a text backbone.
    """

    weight: Tensor

    def __init__(self, *, levels: int | None = None, tokenizer: Utf8 | None = None) -> None:
        super().__init__()
        self.levels = levels
        self.tokenizer = tokenizer
        self.register_buffer("weight", torch.tensor(WEIGHT, dtype=torch.float32))

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.flatten(1).to(self.weight.dtype)
        if self.levels is not None:
            flat = (flat * self.levels).round()
        padded = pad(flat, (0, -flat.shape[1] % NUM_FEATURES))
        sums: Tensor = padded.view(len(padded), -1, NUM_FEATURES).sum(1)
        return sums @ self.weight.T


class Tokens(NamedTuple):
    """The tokens of one text."""

    ids: list[int]
    truncated: bool


class Utf8:
    """A tokenizer: the text's first MAX_TOKENS bytes, each plus one, because 0 is padding."""

    def __call__(self, texts: Sequence[str], /) -> list[Tokens]:
        rows = [[byte + 1 for byte in text.encode()] for text in texts]
        return [Tokens(row[:MAX_TOKENS], len(row) > MAX_TOKENS) for row in rows]


def load_tensor() -> tuple[nn.Module, int]:
    """Return a backbone of rows of four numbers."""
    return Exact(), NUM_FEATURES


def load_image() -> tuple[nn.Module, int]:
    """Return a backbone of images of 4 x 4 pixels, which sums their levels 0..255."""
    return Exact(levels=255), NUM_FEATURES


def load_text() -> tuple[nn.Module, int]:
    """Return a backbone of strings, which sums their bytes."""
    return Exact(tokenizer=Utf8()), NUM_FEATURES


def load_audio() -> tuple[nn.Module, int]:
    """Return a backbone of clips of 8000 samples per second, which sums their samples."""
    return Exact(), NUM_FEATURES


# An image of this size needs no resizing, cropping or normalisation.
_IMAGE = ImageInput(IMAGE_SIZE, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop=1.0)

for _name, _loader, _input in (
    ("tensor", load_tensor, TensorInput((NUM_FEATURES,))),
    ("image", load_image, _IMAGE),
    ("text", load_text, TextInput(MAX_TOKENS)),
    ("audio", load_audio, AudioInput(RATE)),
):
    BACKBONES(_loader, name=_name, namespace=NAMESPACE, input=_input, num_features=NUM_FEATURES)

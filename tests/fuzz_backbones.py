"""The backbones that the fuzz calls."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from midrib.registry import ImageInput, Registry, TensorInput, TextInput

POISON = 666.0
REGISTRY = Registry("fuzz")


class Double(nn.Module):
    """Doubles; a row of poison raises."""

    raised = 0

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == POISON).any()):
            Double.raised += 1
            raise RuntimeError("secret of the module, /etc/shadow")
        return rows * 2


class Tokens(NamedTuple):
    ids: list[int]
    truncated: bool


class Words(nn.Module):
    """The sum of the words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 4, padding_idx=0)

    def tokenizer(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([1 + sum(word.encode()) % 99 for word in text.split()][:8], False) for text in texts]

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.table(ids)
        return vectors.sum(1)


class Picture(nn.Module):
    """The mean of each channel."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))


@REGISTRY(name="double", namespace="test/embedding", input=TensorInput((2,)))
def load_double() -> tuple[nn.Module, int]:
    return Double(), 2


@REGISTRY(name="words", namespace="text/embedding", input=TextInput(8))
def load_words() -> tuple[nn.Module, int]:
    return Words(), 4


@REGISTRY(name="picture", namespace="image/embedding", input=ImageInput(8))
def load_picture() -> tuple[nn.Module, int]:
    return Picture(), 3

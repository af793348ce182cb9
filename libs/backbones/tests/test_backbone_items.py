"""The items of a call come in a list, an array, a column or a generator, and never in a set or a mapping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from midrib.backbones import Backbone, MediaError, Tokens
from midrib.registry import AudioInput, ContractError, ImageInput, TensorInput, TextInput


class FirstValue(nn.Module):
    """Returns the first value of each row, and has a tokenizer that counts letters."""

    def tokenizer(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([len(text)], truncated=False) for text in texts]

    def forward(self, batch: Tensor) -> Tensor:
        return batch.flatten(1)[:, :1].float()


class Column:
    """Like a column of pandas: it has no truth value, and is not indexed by position."""

    def __init__(self, values: list[str]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __bool__(self) -> bool:
        raise ValueError("the truth value of a column is ambiguous")


TEXTS = Backbone("x", FirstValue(), 1, TextInput(8))
IMAGES = Backbone("x", FirstValue(), 1, ImageInput(2))
CLIPS = Backbone("x", FirstValue(), 1, AudioInput(16000))
NUMBERS = Backbone("x", FirstValue(), 1, TensorInput((3,)))


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(("a", "bb"), id="tuple"),
        pytest.param(np.array(["a", "bb"]), id="array"),
        pytest.param(np.array(["a", "bb"], object), id="array of objects"),
        pytest.param(Column(["a", "bb"]), id="column"),
        pytest.param(map(str, ["a", "bb"]), id="iterator"),
    ],
)
def test_texts_of_every_sequence_are_embedded(texts: Iterable[str]) -> None:
    """An iterator was empty once its items had been checked, which gave no rows and no error."""
    assert TEXTS.embed_texts(texts).tolist() == [[1.0], [2.0]]  # type: ignore[arg-type] # more than it promises


def test_images_and_clips_may_come_from_an_iterator() -> None:
    """Each item is used once."""
    pictures = (Image.new("RGB", (4, 4)) for _ in range(2))
    assert IMAGES.embed_images(pictures).shape == (2, 1)  # type: ignore[arg-type] # more than it promises
    clips = (np.full(5, level) for level in (0.25, 0.5))
    assert CLIPS.embed_audio(clips, 16000).tolist() == [[0.25], [0.5]]  # type: ignore[arg-type] # as above


@pytest.mark.parametrize("items", [{"a", "b"}, {"a": "b"}, b"ab", None, 7], ids=["set", "dict", "bytes", "None", "int"])
def test_items_that_are_not_in_a_sequence_are_refused(items: object) -> None:
    """A set has another order in each process, and of a mapping the keys would be embedded."""
    with pytest.raises(TypeError, match=r"got .* of type \w+, expected a list of texts"):
        TEXTS.embed_texts(items)  # type: ignore[arg-type] # the mistake
    with pytest.raises(TypeError, match=r"got .* of type \w+, expected a list of images"):
        IMAGES.embed_images(items)  # type: ignore[arg-type] # as above
    with pytest.raises(TypeError, match=r"got .* of type \w+, expected a list of clips"):
        CLIPS.embed_audio(items, 16000)  # type: ignore[arg-type] # as above


@pytest.mark.parametrize("rate", [16000.0, None, "16000"], ids=str)
def test_a_rate_is_a_whole_number(rate: object) -> None:
    """The error is not one of the arithmetic inside."""
    with pytest.raises(MediaError, match=f"got a rate of {rate!r}, expected a whole number"):
        CLIPS.embed_audio([np.ones(5)], rate)  # type: ignore[arg-type] # the mistake


def test_a_prompt_is_a_string() -> None:
    """The error is not one of the addition inside."""
    with pytest.raises(TypeError, match="got prompt=3 of type int, expected a string"):
        TEXTS.embed_texts(["a"], prompt=3)  # type: ignore[arg-type] # the mistake


class FirstRows(nn.Module):
    """Returns the first two rows only."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch[:2]


def test_a_module_that_loses_rows_is_an_error() -> None:
    """It passes the check at loading, which has two rows."""
    with pytest.raises(ContractError, match=r"returned \[2, 3\] for 4 rows, expected \[4, 3\]"):
        Backbone("x", FirstRows(), 3, TensorInput((3,))).embed(torch.ones(4, 3))


def test_a_head_trains_on_features() -> None:
    """Tensors of inference mode cannot be saved for the backward pass."""
    head = nn.Linear(1, 1)
    head(NUMBERS.embed(torch.ones(2, 3))).sum().backward()
    assert head.weight.grad is not None


def test_features_share_nothing_with_the_batch() -> None:
    """The module returns a view of its input."""
    batch = torch.ones(2, 3)
    features = NUMBERS.embed(batch)
    batch.zero_()
    assert features.tolist() == [[1.0], [1.0]]

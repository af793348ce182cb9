"""A task on texts with the same backbone in this process and on a real server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from midrib.backbones._tokens import Tokens
from midrib.registry import Registry, TextInput
from midrib.task import ClassificationTask
from tests.small_runs import IGNORED_HINTS, quiet_trainer

NAME = "text/embedding/words"
REGISTRY = Registry("backbones of this suite")
TEXTS = ["a leaf", "a leaf on a tree", "taxes", "income and taxes", "tree", "income"]
TARGETS = [0, 0, 1, 1, 0, 1]

pytestmark = IGNORED_HINTS


class Words(nn.Module):
    """Maps a text to the sum of its words' vectors, which are the same at every load."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 16, padding_idx=0)
        with torch.no_grad():
            self.table.weight.copy_(torch.randn(1000, 16, generator=torch.Generator().manual_seed(0)))
            self.table.weight[0] = 0

    def tokenizer(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([1 + sum(word.encode()) % 999 for word in text.split()][:8], False) for text in texts]

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.table(ids)
        return vectors.sum(1)


@REGISTRY(name="words", namespace="text/embedding", input=TextInput(8))
def load_words() -> tuple[nn.Module, int]:
    return Words(), 16


class TextTask(ClassificationTask):
    """Finds the backbone of this suite by its name."""

    backbones = REGISTRY


@pytest.fixture(params=["local", "remote"])
def location(request: pytest.FixtureRequest, url: str) -> str:
    """The name or the URL of the backbone: every test runs with both."""
    return {"local": NAME, "remote": url}[request.param]


def loader() -> DataLoader[Any]:
    """Return batches of (texts, targets)."""
    return DataLoader(list(zip(TEXTS, TARGETS, strict=True)), batch_size=2)  # type: ignore[arg-type] # a list is a dataset


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(TEXTS, id="a list"),
        pytest.param(DataLoader(TEXTS, batch_size=4), id="loader of texts"),  # type: ignore[arg-type] # a list is a dataset
        pytest.param(loader(), id="loader of pairs"),
    ],
)
def test_texts_become_features_in_this_process_and_on_a_server(location: str, data: Any) -> None:
    """One row per text, in order."""
    words = Words()
    ids = [ids + [0] * (8 - len(ids)) for ids, *_ in words.tokenizer(TEXTS)]
    expected = words(torch.tensor(ids)).detach().numpy()
    np.testing.assert_allclose(TextTask(location, 2).embed(data, batch_size=4), expected, atol=1e-5)


def test_a_head_trains_on_texts(location: str) -> None:
    """The loader yields strings, which the backbone or its server tokenises."""
    torch.manual_seed(0)
    task = TextTask(location, labels=["plants", "money"], learning_rate=0.1)
    quiet_trainer(epochs=10).fit(task, loader())
    assert task.predict(TEXTS, output="labels") == ["plants", "plants", "money", "money", "plants", "money"]


def test_a_cache_recognises_a_text(location: str, tmp_path: Path) -> None:
    """Six texts are computed in the first of three epochs, and none in the others."""
    task = TextTask(location, 2, cache=str(tmp_path))
    quiet_trainer(epochs=3).fit(task, loader())
    assert task.cache is not None
    assert (task.cache.hits, task.cache.misses) == (12, 6)


def test_a_prepared_batch_is_an_input(location: str) -> None:
    """`features` takes the result of `prepare`."""
    task = TextTask(location, 2).eval()
    torch.testing.assert_close(task.features(task.prepare(TEXTS)), task.features(TEXTS), atol=1e-5, rtol=1e-4)

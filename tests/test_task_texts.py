"""A task over texts, with the same backbone in this process and behind a real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from midrib.backbones._tokens import Tokens
from midrib.registry import Registry, TextInput
from midrib.server.testing import serving
from midrib.task import ClassificationTask

NAME = "text/embedding/words"
SERVED = Registry("backbones of this suite")
TEXTS = ["a leaf", "a leaf on a tree", "taxes", "income and taxes", "tree", "income"]
TARGETS = [0, 0, 1, 1, 0, 1]

pytestmark = [
    # What Lightning has to say about small quiet runs.
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


class Words(nn.Module):
    """The sum of the words' vectors, the same at every load."""

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


@SERVED(name="words", namespace="text/embedding", input=TextInput(8))
def load_words() -> tuple[nn.Module, int]:
    return Words(), 16


class TextTask(ClassificationTask):
    """Finds the suite's own backbone by its name."""

    backbones = SERVED


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(NAME, registry=SERVED) as server:
        yield server.url(NAME)


@pytest.fixture(params=["local", "remote"])
def where(request: pytest.FixtureRequest, url: str) -> str:
    """The same suite over both."""
    return {"local": NAME, "remote": url}[request.param]


def trainer(epochs: int) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def loader() -> DataLoader[Any]:
    """Batches of (texts, targets), as any text data set gives them."""
    return DataLoader(list(zip(TEXTS, TARGETS, strict=True)), batch_size=2)  # type: ignore[arg-type] # a list is a dataset


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(TEXTS, id="a list"),
        pytest.param(DataLoader(TEXTS, batch_size=4), id="loader of texts"),  # type: ignore[arg-type] # a list is a dataset
        pytest.param(loader(), id="loader of pairs"),
    ],
)
def test_texts_become_features_wherever_they_are_tokenised(where: str, data: Any) -> None:
    """One row a text, in order."""
    words = Words()
    ids = [ids + [0] * (8 - len(ids)) for ids, _ in words.tokenizer(TEXTS)]
    expected = words(torch.tensor(ids)).detach().numpy()
    np.testing.assert_allclose(TextTask(where, 2).embed(data, batch_size=4), expected, atol=1e-5)


def test_a_head_trains_on_texts(where: str) -> None:
    """The loader gives strings; what becomes of them is the backbone's affair."""
    torch.manual_seed(0)
    task = TextTask(where, labels=["plants", "money"], learning_rate=0.1)
    trainer(epochs=10).fit(task, loader())
    assert task.predict(TEXTS, output="labels") == ["plants", "plants", "money", "money", "plants", "money"]


def test_a_cache_knows_a_text_again(where: str, tmp_path: Path) -> None:
    """Six texts are computed in the first of three epochs, and none after it."""
    task = TextTask(where, 2, cache=str(tmp_path))
    trainer(epochs=3).fit(task, loader())
    assert task.cache is not None
    assert (task.cache.hits, task.cache.misses) == (12, 6)


def test_a_prepared_batch_is_an_input_too(where: str) -> None:
    """What prepare returns, features takes."""
    task = TextTask(where, 2).eval()
    torch.testing.assert_close(task.features(task.prepare(TEXTS)), task.features(TEXTS), atol=1e-5, rtol=1e-4)

"""Heads and outputs: the modules that train on the features, and the results of predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from midrib.registry import UnknownKeyError
from midrib.task import ClassificationTask, Task

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]
ROWS = torch.linspace(-1, 1, 32).reshape(4, 8)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("linear", id="linear"),
        pytest.param(("mlp", {"width": 5, "dropout": 0.1}), id="mlp"),
        pytest.param("cosine", id="cosine"),
        pytest.param("attentive", id="attentive"),
        pytest.param(nn.Linear(16, 3), id="a module"),
        pytest.param(lambda num_features, num_outputs: nn.Linear(num_features, num_outputs), id="a function"),
    ],
)
def test_every_head_gives_one_row_of_outputs(backbone: Pair, head: Any) -> None:
    """[batch, num_features] becomes [batch, num_outputs]."""
    assert ClassificationTask(backbone, 3, head=head)(ROWS).shape == (4, 3)


def test_the_attentive_head_takes_token_features() -> None:
    """[batch, tokens, width] is pooled by attention."""
    tokens = nn.Unflatten(1, (2, 4))
    assert Task((tokens, 4), num_outputs=3, head="attentive")(ROWS).shape == (4, 3)


def test_the_cosine_head_sees_directions_only() -> None:
    """Scaled features give the same outputs."""
    task = Task((nn.Identity(), 8), num_outputs=3, head="cosine")
    torch.testing.assert_close(task(ROWS), task(ROWS * 7))


@pytest.mark.parametrize(
    ("head", "outputs", "error", "message"),
    [
        pytest.param("liner", 3, UnknownKeyError, "linear", id="unknown name"),
        pytest.param("linear", None, ValueError, "needs its number of outputs: pass num_outputs", id="no width"),
        pytest.param(lambda *_: 1, 3, TypeError, "made int, expected an nn.Module", id="makes no module"),
    ],
)
def test_a_wrong_head_is_refused(head: Any, outputs: Any, error: type[Exception], message: str) -> None:
    """The error shows the value and what is accepted."""
    with pytest.raises(error, match=message):
        Task((nn.Identity(), 8), num_outputs=outputs, head=head)


# Outputs


@pytest.fixture()
def classifier() -> ClassificationTask:
    """Its logits are the first three inputs."""
    return ClassificationTask((nn.Identity(), 8), labels=["ash", "elm", "oak"], head=FirstThree())


class FirstThree(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features[:, :3]


LOGITS = torch.tensor([[2.0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param("logits", [[2, 1, 0], [0, 0, 3]], id="logits"),
        pytest.param("classes", [0, 2], id="classes"),
        pytest.param("labels", ["ash", "oak"], id="labels"),
        pytest.param("embeddings", LOGITS.tolist(), id="embeddings"),
        pytest.param(lambda prediction: prediction.logits.sum(-1), [3, 3], id="a function"),
    ],
)
def test_predict_gives_any_output(classifier: ClassificationTask, output: Any, expected: list[Any]) -> None:
    """One row for each item."""
    rows = classifier.predict(LOGITS, output=output)
    assert (rows.tolist() if isinstance(rows, Tensor) else rows) == expected


def test_probabilities_sum_to_one(classifier: ClassificationTask) -> None:
    """A softmax over the classes."""
    torch.testing.assert_close(classifier.predict(LOGITS, output="probabilities").sum(-1), torch.ones(2))


def test_top_k_names_the_likeliest_first(classifier: ClassificationTask) -> None:
    """(label, probability), k of them a row."""
    rows = classifier.predict(LOGITS, output=("top_k", {"k": 2}))
    assert [[label for label, _ in row] for row in rows] == [["ash", "elm"], ["oak", "ash"]]


def test_top_k_is_at_most_all(classifier: ClassificationTask) -> None:
    """Five of three classes is a mistake, and said so."""
    with pytest.raises(ValueError, match="k=5, expected between 1 and num_classes=3"):
        classifier.predict(LOGITS, output=("top_k", {"k": 5}))


def test_top_k_gives_five_classes_by_default(classifier: ClassificationTask) -> None:
    """With fewer than five classes it gives all."""
    assert [len(row) for row in classifier.predict(LOGITS, output="top_k")] == [3, 3]


def test_multi_label_gives_any_number_of_labels() -> None:
    """Each class is independent: it is predicted above one half."""
    task = ClassificationTask((nn.Identity(), 8), labels=["a", "b", "c"], head=FirstThree(), multi_label=True)
    assert task.predict(LOGITS, output="labels") == [["a", "b"], ["c"]]


def test_multi_label_trains_on_zeros_and_ones(backbone: Pair, trainer: MakeTrainer) -> None:
    """Binary cross entropy over the classes, and accuracy over all of them."""
    rows = [(row, (row[:3] > 0).long()) for row in torch.randn(32, 8)]
    task = ClassificationTask(backbone, 3, multi_label=True, learning_rate=0.1)
    fitting = trainer(max_epochs=5)
    fitting.fit(task, DataLoader(rows, batch_size=8))  # type: ignore[arg-type] # a list is a dataset
    assert set(fitting.callback_metrics) == {"train_loss", "train_accuracy"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "needs num_classes=..., or labels=", id="neither"),
        pytest.param({"num_classes": 0}, "num_classes=0, expected a whole number of at least 1", id="none"),
        pytest.param({"num_classes": 3, "labels": ["a"]}, "got 1 labels for num_classes=3", id="too few labels"),
    ],
)
def test_the_number_of_classes_is_checked(local: Pair, options: dict[str, Any], message: str) -> None:
    """The error shows the value and what is accepted."""
    with pytest.raises(ValueError, match=message):
        ClassificationTask(local, **options)

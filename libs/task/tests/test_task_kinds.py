"""The kinds of task beside classification: regression and embedding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from midrib.task import ClassificationTask, EmbeddingTask, RegressionTask

Pair = tuple[nn.Module, int]
ROWS = torch.linspace(-1, 1, 32).reshape(4, 8)


@given(st.sampled_from([(4,), (4, 1)]))
def test_one_target_has_no_axis_of_its_own(shape: tuple[int, ...]) -> None:
    """Outputs and targets have one shape: [4] against [4, 1] would silently compare all with all."""
    task = RegressionTask((nn.Identity(), 8))
    _, targets = task.split_batch((ROWS, torch.zeros(shape)))
    assert task(ROWS).shape == targets.shape == (4,)


def test_targets_of_another_shape_are_refused() -> None:
    """The error shows the shape that was given and the one that is expected."""
    with pytest.raises(ValueError, match=r"got targets of shape \[4, 3\], expected \[4, 2\]"):
        RegressionTask((nn.Identity(), 8), 2).split_batch((ROWS, torch.zeros(4, 3)))


def test_an_embedding_task_gives_features(backbone: Pair) -> None:
    """It has no head, so that forward and predict return the backbone's features."""
    task = EmbeddingTask(backbone)
    torch.testing.assert_close(task.predict(ROWS), task.eval()(ROWS))
    assert task.predict(ROWS).shape == (4, 16)


@pytest.mark.parametrize(
    ("layer", "width"),
    [
        pytest.param("backbone", 16, id="the backbone"),
        pytest.param("head.0", 5, id="a hidden layer"),
        pytest.param("head", 3, id="the head"),
    ],
)
def test_a_task_becomes_an_embedder_of_any_layer(backbone: Pair, layer: str, width: int) -> None:
    """Up to that layer, as the task is now."""
    task = ClassificationTask(backbone, 3, head=("mlp", {"width": 5}))
    assert task.as_embedder(layer).embed(ROWS).shape == (4, width)


def test_an_embedder_leaves_the_task_as_it_was(local: Pair) -> None:
    """It is a copy: the task's head can still be trained."""
    task = ClassificationTask(local, 3)
    task.as_embedder("head")
    assert all(parameter.requires_grad for parameter in task.head.parameters())


def test_an_unknown_layer_is_refused(local: Pair) -> None:
    """The error shows the name that was given and the layers that exist."""
    with pytest.raises(ValueError, match=r"got layer 'neck', expected one of \['backbone', 'backbone.0', .*'head'\]"):
        ClassificationTask(local, 3).as_embedder("neck")


def test_an_embedder_ends_at_a_layer_of_the_backbone() -> None:
    """Nothing behind the layer is computed, and its output is the embedding."""

    class Unreachable(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            raise AssertionError("computed")

    backbone = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), Unreachable())
    embedder = ClassificationTask((backbone, 2), 3).as_embedder("backbone.1", sample=ROWS)
    torch.testing.assert_close(torch.from_numpy(embedder.embed(ROWS)), backbone[:2](ROWS).detach())


def test_a_layer_of_a_backbone_without_an_input_needs_a_sample(local: tuple[nn.Module, int]) -> None:
    """The width of the layer is measured on a batch."""
    with pytest.raises(ValueError, match="does not declare its input: pass sample="):
        ClassificationTask(local, 3).as_embedder("backbone.0")


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(torch.eye(3), id="one-hot floats"),
        pytest.param(torch.eye(3, dtype=torch.int64), id="one-hot integers"),
        pytest.param(torch.eye(3, dtype=torch.float64) * 0.9 + 0.1 / 3, id="smoothed, float64"),
        pytest.param(["a", "b", "c"], id="labels"),
        pytest.param(torch.arange(3), id="indices"),
    ],
)
def test_targets_of_every_form_are_counted_right(targets: object) -> None:
    """A perfect head has accuracy 1 for indices, labels and class probabilities."""
    task = ClassificationTask((nn.Identity(), 3), 3, labels=["a", "b", "c"], head=nn.Identity())
    task.test_step((torch.eye(3) * 10, targets), 0)
    values = task.metrics.take("test")
    assert values["test_accuracy"] == 1.0
    assert values["test_loss"] < 0.8


def test_soft_targets_of_several_labels_are_counted_from_one_half() -> None:
    """The metrics count a target of 0.95 as present."""
    task = ClassificationTask((nn.Identity(), 2), 2, multi_label=True, head=nn.Identity())
    task.test_step((torch.tensor([[9.0, -9.0]]), torch.tensor([[0.95, 0.05]])), 0)
    assert task.metrics.take("test")["test_accuracy"] == 1.0


def test_labels_of_several_classes_are_mapped() -> None:
    """With multi_label each item has a sequence of labels."""
    task = ClassificationTask((nn.Identity(), 2), labels=["a", "b"], multi_label=True)
    assert task.split_batch((torch.ones(3, 2), [["a"], [], ["a", "b"]]))[1].tolist() == [[1, 0], [0, 0], [1, 1]]


def test_an_unknown_label_is_named() -> None:
    """The error gives the label and the labels of the task."""
    task = ClassificationTask((nn.Identity(), 2), labels=["cat", "dog"])
    with pytest.raises(ValueError, match=r"got the target 'bird', expected one of \['cat', 'dog'\]"):
        task.split_batch((torch.ones(1, 2), ["bird"]))

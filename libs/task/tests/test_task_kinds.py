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
    """Got, expected."""
    with pytest.raises(ValueError, match=r"got targets of shape \[4, 3\], expected \[4, 2\]"):
        RegressionTask((nn.Identity(), 8), 2).split_batch((ROWS, torch.zeros(4, 3)))


def test_an_embedding_task_gives_features(backbone: Pair) -> None:
    """It has no head."""
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


def test_an_unknown_layer_is_named_with_those_there_are(local: Pair) -> None:
    """Got, expected."""
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

"""The template: a task over rows of numbers, to copy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pytorch_lightning import Trainer, seed_everything
from sklearn.datasets import load_iris  # type: ignore[import-untyped] # it has no types
from torch import nn

from midrib.task.template import TemplateData, TemplateSKLearnClassifier


def test_it_learns_the_irises(trainer: Callable[..., Trainer]) -> None:
    """A task made from scikit-learn's bunch gets nine of ten right."""
    seed_everything(0, verbose=False)
    data = TemplateData.from_sklearn(train=load_iris(), test=load_iris(), batch_size=30)
    task = TemplateSKLearnClassifier(data.num_features, data.num_classes, learning_rate=0.02)
    trainer(max_epochs=15).fit(task, datamodule=data)
    assert trainer().test(task, datamodule=data, verbose=False)[0]["test_accuracy"] > 0.9


def test_the_template_takes_any_backbone() -> None:
    """A pair brings its own width, and stays frozen as with any task."""
    task = TemplateSKLearnClassifier(8, 3, backbone=(nn.Linear(8, 4), 4))
    assert (task.num_features, task.backbone_is_frozen) == (4, True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(None, "got no data: pass train or val or test", id="nothing"),
        pytest.param((np.ones(3), np.ones(3)), r"train got data of shape \[3\]", id="no columns"),
        pytest.param((np.ones((3, 2)), np.ones(2)), r"targets of shape \[2\], expected \[rows", id="rows differ"),
    ],
)
def test_wrong_data_is_refused(rows: tuple[np.ndarray, np.ndarray] | None, message: str) -> None:
    """The error shows the value that was given and what is expected."""
    with pytest.raises(ValueError, match=message):
        TemplateData(rows)

"""Losses and metrics: one, several, with state, and copied for each stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from midrib.task import ClassificationTask, RegressionTask, Task

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]
ROWS = torch.linspace(-1, 1, 32).reshape(4, 8)


def test_several_losses_are_summed_and_each_is_logged(
    backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer
) -> None:
    """train_loss is the sum, train_<name> each part."""
    losses: dict[str, Any] = {"ce": F.cross_entropy, "margin": F.multi_margin_loss}
    task, fitting = ClassificationTask(backbone, 3, loss_fn=losses, metrics=[]), trainer()
    fitting.fit(task, loader)
    logged = fitting.callback_metrics
    assert set(logged) == {"train_loss", "train_ce", "train_margin"}
    torch.testing.assert_close(logged["train_loss"], logged["train_ce"] + logged["train_margin"])


def test_a_list_of_losses_is_named_after_itself(backbone: Pair) -> None:
    """Functions by their names, modules by their classes."""
    task = ClassificationTask(backbone, 3, loss_fn=[F.cross_entropy, nn.MultiMarginLoss()])
    named = task.losses(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert list(named) == ["loss", "cross_entropy", "multi_margin_loss"]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs * self.scale, targets)


def test_a_loss_with_state_trains_with_the_head(backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """Its parameters are the task's."""
    loss = Scaled()
    trainer().fit(ClassificationTask(backbone, 3, loss_fn=loss, learning_rate=0.1), loader)
    assert loss.scale.item() != 1.0


def test_a_task_without_a_loss_cannot_train(backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """But it can do all else."""
    task = Task(backbone, num_outputs=3)
    assert task.predict(ROWS).shape == (4, 3)
    with pytest.raises(ValueError, match="loss_fn=None and so cannot train: pass loss_fn"):
        trainer().fit(task, loader)


def test_each_stage_counts_its_own_rows(backbone: Pair) -> None:
    """A metric is copied per stage, and the user's own is left alone."""
    accuracy = MulticlassAccuracy(3, average="micro")
    task = ClassificationTask(backbone, 3, metrics=accuracy)
    right = (torch.eye(3), torch.arange(3))
    wrong = (torch.eye(3), (torch.arange(3) + 1) % 3)
    train, val = task.metrics.update("train", *right), task.metrics.update("val", *wrong)
    assert (train["train_accuracy"].compute(), val["val_accuracy"].compute()) == (1, 0)
    assert accuracy.update_count == 0


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        pytest.param([], [], id="none"),
        pytest.param(MulticlassF1Score(3), ["train_f1_score"], id="one"),
        pytest.param({"mine": MulticlassF1Score(3)}, ["train_mine"], id="a mapping"),
        pytest.param(MetricCollection({"f1": MulticlassF1Score(3)}), ["train_f1"], id="a collection"),
        pytest.param([F.cross_entropy], ["train_cross_entropy"], id="a function"),
    ],
)
def test_metrics_come_in_many_forms(backbone: Pair, metrics: Any, names: list[str]) -> None:
    """One, several, named or not; a function is averaged over the rows."""
    task = ClassificationTask(backbone, 3, metrics=metrics)
    assert list(task.metrics.update("train", torch.eye(3), torch.arange(3))) == names


def test_a_function_is_averaged_over_rows(backbone: Pair) -> None:
    """A short last batch counts by its length."""
    task = RegressionTask(backbone, metrics=[lambda_mean])
    task.metrics.update("val", torch.full((3,), 1.0), torch.zeros(3))
    metric = task.metrics.update("val", torch.full((1,), 5.0), torch.zeros(1))["val_lambda_mean"]
    assert metric.compute() == 2.0


def lambda_mean(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions - targets).mean()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"metrics": [lambda_mean, lambda_mean]}, ValueError, "pass a mapping from names", id="one name"),
        pytest.param({"metrics": {"a": 3}}, TypeError, "metrics has 'a', which is 3 of type int", id="no metric"),
        pytest.param({"metrics": MulticlassAccuracy}, TypeError, "expected a torchmetrics Metric", id="a class"),
        pytest.param({"loss_fn": [3]}, TypeError, "loss_fn has 'int', which is 3", id="no loss"),
    ],
)
def test_wrong_losses_and_metrics_say_what_is_accepted(
    local: Pair, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Got, expected, do."""
    with pytest.raises(error, match=message):
        ClassificationTask(local, 3, **options)

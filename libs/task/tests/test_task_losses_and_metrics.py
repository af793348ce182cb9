"""Losses and metrics: one, several, with state, and copied for each stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
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
    """The parameters of the loss are parameters of the task."""
    loss = Scaled()
    trainer().fit(ClassificationTask(backbone, 3, loss_fn=loss, learning_rate=0.1), loader)
    assert loss.scale.item() != 1.0


def test_a_task_without_a_loss_cannot_train(backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """Only training raises an error; prediction works."""
    task = Task(backbone, num_outputs=3)
    assert task.predict(ROWS).shape == (4, 3)
    with pytest.raises(ValueError, match="loss_fn=None and so cannot train: pass loss_fn"):
        trainer().fit(task, loader)


LOSSES = {"loss": torch.tensor(0.5)}
RIGHT = (torch.eye(3), torch.arange(3))
WRONG = (torch.eye(3), (torch.arange(3) + 1) % 3)


def test_each_stage_counts_its_own_rows(backbone: Pair) -> None:
    """A metric is copied per stage, and the user's own is left alone."""
    accuracy = MulticlassAccuracy(3, average="micro")
    task = ClassificationTask(backbone, 3, metrics=accuracy)
    task.metrics.update("train", LOSSES, *RIGHT)
    task.metrics.update("val", LOSSES, *WRONG)
    assert task.metrics.take("train") == {"train_loss": 0.5, "train_accuracy": 1}
    assert task.metrics.take("val") == {"val_loss": 0.5, "val_accuracy": 0}
    assert accuracy.update_count == 0


def test_a_stage_begins_anew_once_it_is_taken(backbone: Pair) -> None:
    """An epoch says nothing of the last one's rows."""
    task = ClassificationTask(backbone, 3)
    task.metrics.update("train", LOSSES, *WRONG)
    task.metrics.take("train")
    assert task.metrics.take("train") == {}
    task.metrics.update("train", LOSSES, *RIGHT)
    assert task.metrics.take("train")["train_accuracy"] == 1


def test_each_validation_set_is_counted_by_itself(backbone: Pair, dataset: TensorDataset, trainer: MakeTrainer) -> None:
    """Several loaders: their names end as Lightning's do, and none counts another's rows."""
    inputs, targets = dataset.tensors
    task = ClassificationTask(backbone, 3)
    outputs = task.predict(inputs)
    right, wrong = TensorDataset(inputs, outputs), TensorDataset(inputs, (outputs + 1) % 3)
    first, second = trainer().validate(task, [DataLoader(right, 16), DataLoader(wrong, 16)], verbose=False)
    names = [f"val_{name}/dataloader_idx_{loader}" for loader in (0, 1) for name in ("loss", "accuracy")]
    assert list(first) == list(second) == names
    assert (first[names[1]], first[names[3]]) == (1, 0)


def test_an_interrupted_epoch_is_not_counted(backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """The values of a run that failed are dropped when the next one begins."""
    task = ClassificationTask(backbone, 3)
    task.metrics.update("val", LOSSES, torch.eye(3).repeat(100, 1), torch.zeros(300))
    (results,) = trainer().validate(task, loader, verbose=False)
    inputs, targets = loader.dataset.tensors  # type: ignore[attr-defined] # it is a TensorDataset
    assert results["val_accuracy"] == pytest.approx(float((task.predict(inputs) == targets).float().mean()))


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        pytest.param([], ["train_loss"], id="none"),
        pytest.param(MulticlassF1Score(3), ["train_loss", "train_f1_score"], id="one"),
        pytest.param({"mine": MulticlassF1Score(3)}, ["train_loss", "train_mine"], id="a mapping"),
        pytest.param(MetricCollection({"f1": MulticlassF1Score(3)}), ["train_loss", "train_f1"], id="a collection"),
        pytest.param([F.cross_entropy], ["train_loss", "train_cross_entropy"], id="a function"),
    ],
)
def test_metrics_come_in_many_forms(backbone: Pair, metrics: Any, names: list[str]) -> None:
    """One, several, named or not; a function is averaged over the rows."""
    task = ClassificationTask(backbone, 3, metrics=metrics)
    task.metrics.update("train", LOSSES, *RIGHT)
    assert list(task.metrics.take("train")) == names


def test_a_loss_and_a_function_are_averaged_over_rows(backbone: Pair) -> None:
    """A short last batch counts by its length."""
    task = RegressionTask(backbone, metrics=[lambda_mean])
    task.metrics.update("val", {"loss": torch.tensor(1.0)}, torch.full((3,), 1.0), torch.zeros(3))
    task.metrics.update("val", {"loss": torch.tensor(5.0)}, torch.full((1,), 5.0), torch.zeros(1))
    assert task.metrics.take("val") == {"val_loss": 2.0, "val_lambda_mean": 2.0}


def test_early_stopping_and_checkpoints_monitor_the_logged_names(
    backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Lightning's callbacks find the names of training and of validation."""
    keep = ModelCheckpoint(tmp_path, filename="best", monitor="val_accuracy", mode="max")
    stop = EarlyStopping("train_loss", patience=0, min_delta=100.0)
    fitting = trainer(max_epochs=5, callbacks=[keep, stop], enable_checkpointing=True)
    fitting.fit(ClassificationTask(backbone, 3), loader, loader)
    assert (fitting.current_epoch, keep.best_model_path) == (2, str(tmp_path / "best.ckpt"))


class Watcher(Callback):
    """Records the values that a user's callback finds at the end of each epoch."""

    def __init__(self) -> None:
        self.found: list[set[str]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.append(set(trainer.callback_metrics))


def test_a_callback_finds_an_epochs_values_at_its_end(
    backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer
) -> None:
    """Those of the first epoch too, because they are logged before other callbacks run."""
    watcher = Watcher()
    trainer(max_epochs=2, callbacks=[watcher]).fit(ClassificationTask(backbone, 3), loader)
    assert watcher.found == [{"train_loss", "train_accuracy"}] * 2


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
def test_wrong_losses_and_metrics_are_refused(
    local: Pair, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error shows the value and what is accepted."""
    with pytest.raises(error, match=message):
        ClassificationTask(local, 3, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bool])
def test_whole_class_indices_of_any_type_train(dtype: torch.dtype) -> None:
    """numpy's floats, and masks, are the classes that they say."""
    task = ClassificationTask((nn.Identity(), 8), 2)
    expected = task.training_step((ROWS, torch.tensor([0, 1, 1, 0])), 0)
    torch.testing.assert_close(task.training_step((ROWS, torch.tensor([0, 1, 1, 0]).to(dtype)), 0), expected)


@pytest.mark.parametrize("targets", [torch.tensor([0.0, 0.5, 1.0, 1.0]), [0.0, 0.5, 1.0, 1.0]])
def test_targets_between_the_classes_are_refused(targets: Any) -> None:
    """Cutting 0.5 to class 0 would give a wrong accuracy without a sign of it."""
    task = ClassificationTask((nn.Identity(), 8), 2)
    with pytest.raises(
        ValueError, match=r"got (the target 0\.5|targets of torch.float32, such as 0\.5), expected .*class"
    ):
        task.training_step((ROWS, targets), 0)

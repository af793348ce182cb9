"""A task over any backbone: train, evaluate, predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from midrib import task as public
from midrib.registry import FlashRegistry, UnknownKeyError
from midrib.task import ClassificationTask, RegressionTask, Task

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]


def test_the_package_exports_exactly_its_public_list() -> None:
    """The public names are listed once."""
    assert sorted(public.__all__) == [
        "AudioData",
        "BackboneRecipe",
        "CheckpointError",
        "ClassificationTask",
        "Clip",
        "EmbeddingTask",
        "FeatureCache",
        "Finetuning",
        "ImageData",
        "Prediction",
        "RegressionTask",
        "RevisionError",
        "TabularData",
        "Task",
        "TextData",
        "available_layers",
    ]


def test_a_plain_trainer_trains_a_head(backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """A task is a LightningModule: after Trainer.fit it separates the classes."""
    task = ClassificationTask(backbone, 3, learning_rate=0.05)
    trainer(max_epochs=15).fit(task, loader)
    results = trainer().test(task, loader, verbose=False)
    assert results[0]["test_accuracy"] > 0.9


def test_each_stage_logs_under_its_prefix(backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """The prefixes are train_, val_ and test_; each stage has the loss and the metrics."""
    task, fitting = ClassificationTask(backbone, 3), trainer()
    fitting.fit(task, loader, loader)
    assert set(fitting.callback_metrics) == {"train_loss", "train_accuracy", "val_loss", "val_accuracy"}
    fitting.test(task, loader, verbose=False)
    assert set(fitting.callback_metrics) == {"test_loss", "test_accuracy"}


def test_training_never_asks_a_remote_backbone_for_gradients(
    remote: tuple[Any, int], loader: DataLoader[Any], trainer: MakeTrainer
) -> None:
    """A frozen backbone runs without a graph, so that backward stops at the head."""
    trainer().fit(ClassificationTask(remote, 3), loader)
    assert (remote[0].calls, remote[0].asked_for_gradients) == (3, 0)


def test_a_frozen_backbone_builds_no_graph(backbone: Pair) -> None:
    """Features of a frozen backbone carry no history."""
    features = ClassificationTask(backbone, 3).features(torch.ones(2, 8))
    assert not features.requires_grad


def test_inputs_that_want_a_gradient_get_one(local: Pair) -> None:
    """A saliency map goes through a frozen backbone: its weights are frozen, not the function."""
    inputs = torch.ones(2, 8, requires_grad=True)
    ClassificationTask(local, 3)(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0


def test_a_name_leads_to_a_registered_backbone() -> None:
    """num_features comes from the backbone, its arguments from backbone_kwargs."""
    task = ClassificationTask("template/classification/mlp-128", 3, backbone_kwargs={"num_features": 8})
    assert (task.num_features, task(torch.ones(2, 8)).shape) == (128, (2, 3))


def test_a_url_is_opened_by_a_resolver(served: list[nn.Module], remote: Pair) -> None:
    """Only the name changes between a local and a remote backbone."""
    served.append(remote[0])
    task = ClassificationTask("standin://host:1/some/name", 3)
    assert task.backbone is remote[0]


def test_a_loader_is_called_with_the_backbone_kwargs() -> None:
    """Any function that returns (module, num_features) will do."""

    def load(width: int) -> Pair:
        return nn.Linear(width, 5), 5

    task = RegressionTask(load, backbone_kwargs={"width": 8})
    assert task(torch.ones(2, 8)).shape == (2,)


def test_a_name_may_be_in_the_users_registry() -> None:
    """As in the contributor guide: a registry, a loader in it, and the name in a task."""
    registry = FlashRegistry("backbones")

    @registry(name="tiny", namespace="template/classification")
    def load_tiny(num_features: int) -> Pair:
        return nn.Linear(num_features, 4), 4

    class TinyTask(ClassificationTask):
        backbones = registry

    task = TinyTask("tiny", 2, backbone_kwargs={"num_features": 8})
    assert (task.num_features, TinyTask.available_backbones()) == (4, ["template/classification/tiny"])


@pytest.mark.parametrize(
    ("backbone", "error", "message"),
    [
        pytest.param("template/classification/mlp-12", UnknownKeyError, "mlp-128", id="a near name is suggested"),
        pytest.param(nn.Linear(2, 2), TypeError, r"expected .* a pair \(module, num_features\)", id="module alone"),
        pytest.param((nn.Linear(2, 2), "2"), TypeError, "expected a registered name", id="width is not a number"),
        pytest.param(3, TypeError, "got 3 of type int", id="a number"),
    ],
)
def test_a_wrong_backbone_is_refused(backbone: Any, error: type[Exception], message: str) -> None:
    """The error shows the value and what is accepted."""
    with pytest.raises(error, match=message):
        Task(backbone, num_outputs=1)


def test_a_pair_takes_no_backbone_kwargs(local: Pair) -> None:
    """Arguments that would have no effect are refused, not dropped."""
    with pytest.raises(TypeError, match=r"are for a loader, and a \(module, num_features\) pair has none"):
        ClassificationTask(local, 3, backbone_kwargs={"pretrained": True})


def test_a_mapping_is_a_batch_too(backbone: Pair, dataset: TensorDataset, trainer: MakeTrainer) -> None:
    """Lightning Flash's batches, {"input": …, "target": …}, work as pairs do."""
    inputs, targets = dataset.tensors
    rows = [{"input": row, "target": target} for row, target in zip(inputs, targets, strict=True)]
    fitting = trainer()
    fitting.fit(ClassificationTask(backbone, 3), DataLoader(rows, batch_size=16))  # type: ignore[arg-type] # a list is a dataset
    assert fitting.callback_metrics["train_loss"].isfinite()


def test_a_batch_of_another_form_is_refused(backbone: Pair) -> None:
    """A batch of three parts is an error that names the accepted forms."""
    with pytest.raises(TypeError, match=r"expected \(inputs, targets\) or a mapping .*override split_batch"):
        ClassificationTask(backbone, 3).split_batch((1, 2, 3))


def test_a_notebook_shows_the_parts(backbone: Pair) -> None:
    """The backbone and where it runs, its width, and the head."""
    html = ClassificationTask(backbone, 3)._repr_html_()
    assert "<td>head</td><td>Linear, 51 parameters</td>" in html
    assert "<td>num_features</td><td>16</td>" in html
    assert ("on its server" if backbone[0].__dict__.get("calls") == 0 else ", frozen") in html

"""Heads, outputs, losses, metrics, and the registries they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from midrib.registry import UnknownKeyError
from midrib.task import ClassificationTask, EmbeddingTask, Prediction, RegressionTask, Task

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]
ROWS = torch.linspace(-1, 1, 32).reshape(4, 8)

# Heads


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
def test_a_wrong_head_says_what_is_accepted(head: Any, outputs: Any, error: type[Exception], message: str) -> None:
    """Got, expected, do."""
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
        classifier.predict(LOGITS, output="top_k")


def test_multi_label_gives_any_number_of_labels() -> None:
    """Each class stands for itself: above one half is in."""
    task = ClassificationTask((nn.Identity(), 8), labels=["a", "b", "c"], head=FirstThree(), multi_label=True)
    assert task.predict(LOGITS, output="labels") == [["a", "b"], ["c"]]


def test_multi_label_trains_on_zeros_and_ones(backbone: Pair, trainer: MakeTrainer) -> None:
    """Binary cross entropy over the classes, and accuracy over all of them."""
    rows = [(row, (row[:3] > 0).long()) for row in torch.randn(32, 8)]
    task = ClassificationTask(backbone, 3, multi_label=True, learning_rate=0.1)
    fitting = trainer(max_epochs=5)
    fitting.fit(task, DataLoader(rows, batch_size=8))  # type: ignore[arg-type]
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
    """Got, expected, do."""
    with pytest.raises(ValueError, match=message):
        ClassificationTask(local, **options)


# Losses and metrics


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


# Regression and embeddings


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
    with pytest.raises(ValueError, match=r"got layer 'neck', expected one of \['backbone', 'head'\]"):
        ClassificationTask(local, 3).as_embedder("neck")


# Registries


@pytest.mark.parametrize(
    "kind", ["backbones", "heads", "outputs", "optimizers_registry", "lr_schedulers_registry", "finetuning_strategies"]
)
def test_what_a_subclass_registers_no_other_class_sees(kind: str) -> None:
    """Every class has registries of its own."""

    class Mine(ClassificationTask):
        pass

    class Yours(ClassificationTask):
        pass

    getattr(Mine, kind)(lambda *_: None, name="mine")
    assert ["mine" in getattr(owner, kind) for owner in (Mine, Yours, ClassificationTask, Task)] == [
        True,
        False,
        False,
        False,
    ]


def test_a_subclass_inherits_what_its_parent_registered() -> None:
    """As a class inherits all else."""

    class Parent(ClassificationTask):
        pass

    Parent.heads(lambda *_: nn.Identity(), name="none")
    Parent.backbones(lambda: (nn.Identity(), 8), name="raw")

    class Child(Parent):
        pass

    assert isinstance(Child("raw", 8, head="none").head, nn.Identity)


def test_a_class_tells_what_it_has() -> None:
    """One method for each kind of part."""
    assert ClassificationTask.available_heads() == ["attentive", "cosine", "linear", "mlp"]
    assert ClassificationTask.available_outputs() == [
        "classes",
        "embeddings",
        "labels",
        "logits",
        "probabilities",
        "top_k",
    ]
    assert Task.available_outputs() == ["embeddings", "logits"]
    assert ClassificationTask.available_finetuning_strategies() == [
        "freeze",
        "freeze_unfreeze",
        "no_freeze",
        "unfreeze_milestones",
    ]
    assert {"adam", "sgd"} <= set(ClassificationTask.available_optimizers())
    assert {"onecyclelr", "steplr"} <= set(ClassificationTask.available_lr_schedulers())
    assert "template/classification/mlp-128" in ClassificationTask.available_backbones("*mlp*", catalogues=False)


def test_a_backbones_details_are_readable() -> None:
    """Its key, what it takes, and what it is."""
    details = ClassificationTask.get_backbone_details("mlp-128")
    assert details.startswith("template/classification/mlp-128(num_features: 'int')")


def test_features_are_computed_once_for_an_output(remote: tuple[Any, int]) -> None:
    """An output that asks twice pays once."""
    prediction = Prediction(ClassificationTask(remote, 3).eval(), ROWS)
    assert prediction.features is prediction.features
    assert remote[0].calls == 1

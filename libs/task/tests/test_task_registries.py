"""The registries that names come from, one of each kind for every class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from midrib.task import ClassificationTask, Prediction, RegressionTask, Task

ROWS = torch.linspace(-1, 1, 32).reshape(4, 8)


@pytest.mark.parametrize(
    "kind", ["backbones", "heads", "outputs", "optimizers_registry", "lr_schedulers_registry", "finetuning_strategies"]
)
def test_what_a_subclass_registers_no_other_class_sees(kind: str) -> None:
    """Every class has its own registries."""

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


def test_a_subclass_inherits_the_entries_of_its_parent() -> None:
    """Look-ups in a subclass also find the entries of its parent."""

    class Parent(ClassificationTask):
        pass

    Parent.heads(lambda *_: nn.Identity(), name="none")
    Parent.backbones(lambda: (nn.Identity(), 8), name="raw")

    class Child(Parent):
        pass

    assert isinstance(Child("raw", 8, head="none").head, nn.Identity)


def test_a_class_lists_its_parts() -> None:
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
    """Its key, arguments and summary."""
    details = ClassificationTask.get_backbone_details("mlp-128")
    assert details.startswith("template/classification/mlp-128(num_features: 'int')")


def test_features_are_computed_once_for_an_output(remote: tuple[Any, int]) -> None:
    """An output that asks twice pays once."""
    prediction = Prediction(ClassificationTask(remote, 3).eval(), ROWS)
    assert prediction.features is prediction.features
    assert remote[0].calls == 1


def test_a_subclass_inherits_later_entries_too() -> None:
    """A head that is registered on the parent after the subclass was defined has a name there too."""

    class Parent(ClassificationTask):
        pass

    class Child(Parent):
        pass

    Parent.heads(lambda *_: nn.Identity(), name="late")
    assert "late" in Child.available_heads()
    assert isinstance(Child((nn.Identity(), 3), 3, head="late").head, nn.Identity)


@pytest.mark.parametrize(
    "kind", ["backbones", "heads", "outputs", "optimizers_registry", "lr_schedulers_registry", "finetuning_strategies"]
)
def test_every_task_inherits_the_entries_of_task(kind: str) -> None:
    """Entries that are registered after the class was defined are inherited too."""
    registry = getattr(Task, kind)
    with registry.temporary():
        registry(lambda *_: None, name="late")
        assert "late" in getattr(ClassificationTask, kind)
        assert "late" in getattr(RegressionTask, kind)

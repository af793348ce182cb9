"""Optimizers and schedulers in every form that a task takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader

from midrib.registry import UnknownKeyError
from midrib.task import ClassificationTask

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]


def optimizer_of(task: ClassificationTask) -> Optimizer:
    optimizer: Optimizer = task.configure_optimizers()
    return optimizer


def scheduler_of(task: ClassificationTask, trainer: Trainer, loader: DataLoader[Any]) -> dict[str, Any]:
    """The scheduler as Lightning holds it once it has fitted."""
    trainer.fit(task, loader)
    config = trainer.lr_scheduler_configs[0]
    return {"scheduler": config.scheduler, "interval": config.interval, "monitor": config.monitor}


@pytest.mark.parametrize(
    ("optimizer_like", "kind", "options"),
    [
        pytest.param("sgd", SGD, {"lr": 0.5}, id="name"),
        pytest.param("AdaGrad", Adagrad, {"lr": 0.5}, id="name in any case"),
        pytest.param(SGD, SGD, {"lr": 0.5}, id="class"),
        pytest.param(partial(SGD, momentum=0.9), SGD, {"lr": 0.5, "momentum": 0.9}, id="partial"),
        pytest.param(partial(SGD, lr=0.1), SGD, {"lr": 0.1}, id="partial with a rate"),
        pytest.param(lambda parameters: Adam(parameters, lr=0.2), Adam, {"lr": 0.2}, id="function"),
        pytest.param(("sgd", {"momentum": 0.9}), SGD, {"lr": 0.5, "momentum": 0.9}, id="name and arguments"),
        pytest.param((SGD, {"lr": 0.3}), SGD, {"lr": 0.3}, id="arguments win over learning_rate"),
        pytest.param(["sgd", {"momentum": 0.9}], SGD, {"momentum": 0.9}, id="a list, as YAML has it"),
    ],
)
def test_an_optimizer_comes_in_many_forms(
    local: Pair, optimizer_like: Any, kind: type, options: dict[str, float]
) -> None:
    """By name, class or callable, with or without arguments; learning_rate fills in the rate."""
    optimizer = optimizer_of(ClassificationTask(local, 3, optimizer=optimizer_like, learning_rate=0.5))
    assert type(optimizer) is kind
    assert {name: optimizer.defaults[name] for name in options} == options


@pytest.mark.parametrize(
    ("optimizer_like", "error", "message"),
    [
        pytest.param("adamm", UnknownKeyError, "adam", id="unknown name"),
        pytest.param(3, TypeError, "optimizer got 3 of type int, expected a name", id="a number"),
        pytest.param(("sgd", 0.9), TypeError, r"or \(name or callable, kwargs\)", id="kwargs are not a mapping"),
        pytest.param(("sgd", {}, {}), TypeError, r"or \(name or callable, kwargs\)", id="too many parts"),
        pytest.param(SGD([nn.Parameter(torch.ones(1))]), TypeError, "as in optimizer='sgd'", id="an instance"),
        pytest.param(lambda parameters: None, TypeError, "made NoneType, expected a torch.optim", id="makes nothing"),
        pytest.param(
            ("sgd", {"momentun": 0.9}), TypeError, "optimizer SGD: .*'momentun'; it takes .*momentum", id="typo"
        ),
    ],
)
def test_a_wrong_optimizer_is_refused(local: Pair, optimizer_like: Any, error: type[Exception], message: str) -> None:
    """The error shows the value and what is accepted."""
    with pytest.raises(error, match=message):
        optimizer_of(ClassificationTask(local, 3, optimizer=optimizer_like))


def test_the_users_dictionaries_stay_as_they_were(local: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """Missing values are filled into a copy."""
    kwargs: dict[str, Any] = {"momentum": 0.9}
    schedule: tuple[Any, ...] = ("onecyclelr", {"max_lr": 0.1}, {"interval": "step"})
    task = ClassificationTask(local, 3, optimizer=("sgd", kwargs), lr_scheduler=schedule, learning_rate=0.1)
    trainer().fit(task, loader)
    assert (kwargs, schedule) == ({"momentum": 0.9}, ("onecyclelr", {"max_lr": 0.1}, {"interval": "step"}))


def test_the_backbone_may_have_a_rate_of_its_own(local: Pair) -> None:
    """Two groups: the head at learning_rate, the backbone at backbone_learning_rate."""
    task = ClassificationTask(
        local, 3, learning_rate=0.1, backbone_learning_rate=0.001, finetuning="no_freeze", optimizer="sgd"
    )
    groups = optimizer_of(task).param_groups
    sizes = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
    assert [(group["lr"], size) for group, size in zip(groups, sizes, strict=True)] == [
        (0.1, sum(parameter.numel() for parameter in task.head.parameters())),
        (0.001, sum(parameter.numel() for parameter in task.backbone.parameters())),
    ]


@pytest.mark.parametrize(
    ("scheduler_like", "kind", "interval"),
    [
        pytest.param(("StepLR", {"step_size": 1}), StepLR, "epoch", id="name and arguments"),
        pytest.param((StepLR, {"step_size": 1}, {"interval": "step"}), StepLR, "step", id="with a lightning_config"),
        pytest.param(lambda optimizer: StepLR(optimizer, 1), StepLR, "epoch", id="function"),
        pytest.param("cosineannealinglr", CosineAnnealingLR, "epoch", id="cosine, its length filled in"),
        pytest.param(OneCycleLR, OneCycleLR, "step", id="one cycle, its length and rate filled in"),
        pytest.param("cycliclr", None, "step", id="cyclic, its rates filled in"),
        pytest.param("reducelronplateau", ReduceLROnPlateau, "epoch", id="plateau, its monitor filled in"),
        pytest.param("linear_schedule_with_warmup", None, "step", id="transformers', by name"),
    ],
)
def test_a_scheduler_comes_in_many_forms(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer, scheduler_like: Any, kind: type | None, interval: str
) -> None:
    """The training's length is filled in for schedulers that need it."""
    task = ClassificationTask(
        local, 3, optimizer=("sgd", {"momentum": 0.9}), learning_rate=0.1, lr_scheduler=scheduler_like
    )
    scheduler = scheduler_of(task, trainer(), loader)
    assert scheduler["interval"] == interval
    assert kind is None or type(scheduler["scheduler"]) is kind


def test_a_scheduler_gets_the_number_of_steps(local: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """Three batches an epoch, two epochs: six steps."""
    task = ClassificationTask(local, 3, lr_scheduler="onecyclelr", learning_rate=0.1)
    assert scheduler_of(task, trainer(max_epochs=2), loader)["scheduler"].total_steps == 6


def test_a_scheduler_that_counts_epochs_gets_their_number(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer
) -> None:
    """The length is in the scheduler's unit."""
    task = ClassificationTask(local, 3, lr_scheduler="cosineannealinglr", learning_rate=0.1)
    assert scheduler_of(task, trainer(max_epochs=4), loader)["scheduler"].T_max == 4


def test_a_warm_up_may_be_a_share_of_the_training(local: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """num_warmup_steps=0.5 of six steps is three: at the fourth step the rate is whole."""
    schedule = ("linear_schedule_with_warmup", {"num_warmup_steps": 0.5})
    task = ClassificationTask(local, 3, optimizer="sgd", learning_rate=0.1, lr_scheduler=schedule)
    fitting = trainer(max_steps=3, max_epochs=None)
    fitting.fit(task, loader)
    scheduler: Any = fitting.lr_scheduler_configs[0].scheduler
    assert [scheduler.lr_lambdas[0](step) for step in (0, 1, 2, 3)] == [0.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("scheduler_like", "message"),
    [
        pytest.param(("steplr", {}, {}, {}), r"or \(name or callable, kwargs, lightning_config\)", id="four parts"),
        pytest.param(lambda optimizer: None, "made NoneType, expected an LRScheduler", id="makes nothing"),
        pytest.param("steplr", r"missing .*'step_size'; it takes .*as \('steplr', {...}\)", id="arguments missing"),
    ],
)
def test_a_wrong_scheduler_says_what_is_accepted(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer, scheduler_like: Any, message: str
) -> None:
    """The error shows the value and what is accepted."""
    with pytest.raises(TypeError, match=message):
        trainer().fit(ClassificationTask(local, 3, lr_scheduler=scheduler_like), loader)


@pytest.mark.parametrize("part", ["optimizer", "lr_scheduler"])
def test_an_unknown_name_fails_at_construction(local: Pair, part: str) -> None:
    """A misspelt name is an error of the line that has it, not of a later fit."""
    arguments: dict[str, Any] = {part: "stepLR2"}
    with pytest.raises(UnknownKeyError, match="'steplr2' is not in the registr"):
        ClassificationTask(local, 3, **arguments)


def test_a_scheduler_that_needs_no_length_needs_no_trainer(local: Pair) -> None:
    """configure_optimizers works outside of a fit."""
    configured: Any = ClassificationTask(local, 3, lr_scheduler=("steplr", {"step_size": 1})).configure_optimizers()
    assert isinstance(configured["lr_scheduler"]["scheduler"], StepLR)


def test_a_scheduler_recipe_may_return_lightnings_dictionary(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer
) -> None:
    """Its entries reach Lightning."""
    task = ClassificationTask(
        local, 3, lr_scheduler=lambda optimizer: {"scheduler": StepLR(optimizer, 1), "interval": "step"}
    )
    assert scheduler_of(task, trainer(), loader)["interval"] == "step"


def test_a_training_without_an_end_has_no_length(local: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """A scheduler that needs the length says that the Trainer does not know it."""
    task = ClassificationTask(local, 3, lr_scheduler="cosineannealinglr")
    with pytest.raises(ValueError, match="length in epochs, which is not known here: pass max_epochs"):
        trainer(max_epochs=None, max_steps=2).fit(task, loader)

"""Which layers train in which epoch: strategies, in each of their forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.utils.data import DataLoader

from midrib.registry import UnknownKeyError
from midrib.task import ClassificationTask, Finetuning

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]
STATEFUL = ["0", "1", "4"]  # the layers of the local backbone: linear, batch norm, linear


class Watch(Callback):
    """Notes, at each epoch's first batch, which of the backbone's layers train."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            layers = [(name, pl_module.get_submodule(f"backbone.{name}")) for name in STATEFUL]
            trains = [name for name, layer in layers if all(p.requires_grad for p in layer.parameters())]
            self.seen.append(trains)


def state_of(module: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in module.state_dict().items()}


def changed(before: dict[str, bytes], module: nn.Module) -> set[str]:
    return {name.partition(".")[0] for name, value in state_of(module).items() if before[name] != value}


@pytest.mark.parametrize(
    "optimizer", ["adam", ("adamw", {"weight_decay": 0.1}), ("sgd", {"momentum": 0.9, "weight_decay": 0.1})]
)
def test_a_freeze_holds_every_byte_still(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer, optimizer: Any
) -> None:
    """Weights, batch norm statistics and counters: identical after fit, with every optimizer."""
    before = state_of(local[0])
    trainer(max_epochs=2).fit(ClassificationTask(local, 3, optimizer=optimizer, learning_rate=0.1), loader, loader)
    assert state_of(local[0]) == before


def test_no_freeze_trains_everything(local: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """Weights and the statistics of batch norms both change."""
    before = state_of(local[0])
    trainer().fit(ClassificationTask(local, 3, finetuning="no_freeze", learning_rate=0.1), loader)
    assert changed(before, local[0]) == set(STATEFUL)


def test_train_bn_lets_batch_norms_train_and_nothing_else(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer
) -> None:
    """Their weights and their statistics; linear layers stay as they were."""
    before = state_of(local[0])
    trainer().fit(ClassificationTask(local, 3, train_bn=True, learning_rate=0.1), loader)
    assert changed(before, local[0]) == {"1"}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        pytest.param("freeze", [[], [], [], []], id="freeze"),
        pytest.param("no_freeze", [STATEFUL] * 4, id="no_freeze"),
        pytest.param(("freeze_unfreeze", 2), [[], [], STATEFUL, STATEFUL], id="freeze_unfreeze"),
        pytest.param(("unfreeze_milestones", ((1, 3), 1)), [[], ["4"], ["4"], STATEFUL], id="unfreeze_milestones"),
        pytest.param(["unfreeze_milestones", [[1, 3], 1]], [[], ["4"], ["4"], STATEFUL], id="lists, as YAML has them"),
        pytest.param(lambda epoch: epoch, [[], ["4"], ["1", "4"], STATEFUL], id="a function"),
    ],
)
@pytest.mark.parametrize("place", ["task", "finetune", "callback"])
def test_a_strategy_decides_which_layers_train_in_each_epoch(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer, strategy: Any, expected: list[Any], place: str
) -> None:
    """The result is the same whether it is passed to the task, to finetune, or to the Trainer."""
    watch = Watch()
    at_trainer = [Finetuning(strategy)] * (place == "callback")
    task = ClassificationTask(local, 3, finetuning=strategy if place == "task" else "freeze")
    fitting = trainer(max_epochs=4, callbacks=[watch, *at_trainer])
    task.finetune(fitting, loader, strategy=strategy if place == "finetune" else None)
    assert watch.seen == expected


def test_unfreezing_leaves_one_cycle_as_it_was(local: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """The backbone's parameters are in the optimizer from the start, so a scheduler has counted them."""
    before = state_of(local[0])
    task = ClassificationTask(
        local,
        3,
        lr_scheduler="onecyclelr",
        learning_rate=0.1,
        backbone_learning_rate=0.01,
        finetuning=("freeze_unfreeze", 1),
    )
    fitting = trainer(max_epochs=3)
    fitting.fit(task, loader)
    groups = fitting.optimizers[0].param_groups
    assert [group["max_lr"] for group in groups] == [0.1, 0.01]
    assert changed(before, local[0]) == set(STATEFUL)


def test_a_resumed_training_is_as_frozen_as_it_was(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer, tmp_path: Path
) -> None:
    """The strategy knows the epoch, so a checkpoint needs to hold nothing about it."""
    task = ClassificationTask(local, 3, finetuning=("freeze_unfreeze", 1))
    fitting = trainer(max_epochs=2)
    fitting.fit(task, loader)
    fitting.save_checkpoint(tmp_path / "two.ckpt")
    watch = Watch()
    trainer(max_epochs=3, callbacks=[watch]).fit(task, loader, ckpt_path=tmp_path / "two.ckpt")
    assert watch.seen == [STATEFUL]


def test_one_trainer_may_finetune_twice(local: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """First the head, then everything: the second call's strategy is the one that counts."""
    task, watch = ClassificationTask(local, 3), Watch()
    fitting = trainer(max_epochs=1, callbacks=[watch])
    task.finetune(fitting, loader)
    fitting.fit_loop.max_epochs = 2
    task.finetune(fitting, loader, strategy="no_freeze")
    assert watch.seen == [[], STATEFUL]


def test_two_strategies_are_one_too_many(local: Pair, loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """The Trainer says one, finetune another: neither is silently dropped."""
    task = ClassificationTask(local, 3)
    with pytest.raises(ValueError, match="callback has 'no_freeze': set it in one of them"):
        task.finetune(trainer(callbacks=[Finetuning("no_freeze")]), loader, strategy="freeze")


def test_a_parameter_that_the_loader_froze_stays_frozen(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer
) -> None:
    """Unfreezing does not change a parameter whose loader wants no gradient for it."""
    local[0].get_submodule("0").requires_grad_(False)
    before = state_of(local[0])
    trainer().fit(ClassificationTask(local, 3, finetuning="no_freeze", learning_rate=0.1), loader)
    assert changed(before, local[0]) == {"1", "4"}


def test_frozen_layers_stay_in_eval_mode(local: Pair) -> None:
    """task.train() is for trainable layers: a frozen backbone's dropout stays off."""
    task = ClassificationTask(local, 3).train()
    assert task.head.training
    assert not any(module.training for module in task.backbone.modules())


def test_a_partly_frozen_batch_norm_keeps_its_statistics(local: Pair) -> None:
    """With the last layer in training, the batch norm below it is still frozen."""
    task = ClassificationTask(local, 3, finetuning=lambda epoch: 1).train()
    norm = task.backbone.get_submodule("1")
    before = state_of(norm)
    task(torch.randn(4, 8))
    assert state_of(norm) == before


def test_a_frozen_backbone_answers_the_same_twice(local: Pair) -> None:
    """In train mode too, a frozen backbone gives the same features for the same batch."""
    task, rows = ClassificationTask(local, 3).train(), torch.randn(4, 8)
    assert torch.equal(task.features(rows), task.features(rows))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"finetuning": "no_freeze"}, id="no_freeze"),
        pytest.param({"finetuning": ("freeze_unfreeze", 5)}, id="freeze_unfreeze"),
        pytest.param({"finetuning": ("unfreeze_milestones", ((5, 10), 2))}, id="unfreeze_milestones"),
        pytest.param({"train_bn": True}, id="train_bn"),
    ],
)
def test_a_remote_backbone_cannot_be_unfrozen(remote: Pair, options: dict[str, Any]) -> None:
    """It is said at once, not in the epoch in which it would begin."""
    with pytest.raises(ValueError, match="would train the remote backbone .*use finetuning='freeze'"):
        ClassificationTask(remote, 3, **options)


def test_finetune_cannot_unfreeze_a_remote_backbone(
    remote: Pair, loader: DataLoader[Any], trainer: MakeTrainer
) -> None:
    """`finetune` and the Trainer's callback refuse it, and the task keeps its former finetuning."""
    task = ClassificationTask(remote, 3)
    with pytest.raises(ValueError, match=r"or task.to_local\(\) first"):
        task.finetune(trainer(), loader, strategy="no_freeze")
    with pytest.raises(ValueError, match=r"or task.to_local\(\) first"):
        trainer(callbacks=[Finetuning("no_freeze")]).fit(task, loader)
    task.finetune(trainer(), loader)


@pytest.mark.parametrize(
    ("strategy", "error", "message"),
    [
        pytest.param("freez", UnknownKeyError, "freeze", id="unknown name"),
        pytest.param("freeze_unfreeze", TypeError, r"unfreeze_epoch.*pass \('freeze_unfreeze'", id="no argument"),
        pytest.param(("freeze_unfreeze", "2"), ValueError, "got '2', expected an epoch", id="no epoch"),
        pytest.param(("unfreeze_milestones", 5), ValueError, r"expected \(\(first_epoch", id="no milestones"),
        pytest.param(("unfreeze_milestones", ((5, 2), 1)), ValueError, "first_epoch <= second_epoch", id="order"),
        pytest.param(3, TypeError, r"finetuning got 3, expected a name, \(name, argument\)", id="a number"),
    ],
)
def test_a_wrong_strategy_is_refused(local: Pair, strategy: Any, error: type[Exception], message: str) -> None:
    """The error shows the value and what is accepted."""
    with pytest.raises(error, match=message):
        ClassificationTask(local, 3, finetuning=strategy)


def test_the_callback_is_for_tasks(loader: DataLoader[Any], trainer: MakeTrainer) -> None:
    """Any other module has no backbone to freeze."""
    with pytest.raises(TypeError, match="got a Plain, expected a midrib.task.Task"):
        trainer(callbacks=[Finetuning("freeze")]).fit(Plain(), loader)


class Plain(LightningModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return batch[0].sum()  # type: ignore[no-any-return] # Lightning's batches are of any type

    def configure_optimizers(self) -> None:
        return None


@given(count=st.integers(0, 5))
def test_the_last_layers_train_and_no_other(count: int) -> None:
    """For any number of layers, exactly the last ones train."""
    layers = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    ClassificationTask((layers, 2), 2, finetuning=lambda epoch: count)
    trains = [all(p.requires_grad for p in layer.parameters()) for layer in layers]
    assert trains == [index >= 4 - count for index in range(4)]


@pytest.mark.parametrize("place", ["task", "trainer", "finetune"])
def test_lightnings_own_strategy_unfreezes_the_backbone(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer, place: str
) -> None:
    """BackboneFinetuning freezes at first, and adds the backbone's parameters to the optimizer at its epoch."""
    watch = Watch()
    strategy = BackboneFinetuning(1, backbone_initial_ratio_lr=0.1, train_bn=False)
    options: dict[str, Any] = {"finetuning": strategy} if place == "task" else {}
    task = ClassificationTask(local, 3, learning_rate=0.1, **options)
    fitting = trainer(max_epochs=2, callbacks=[watch, strategy] if place == "trainer" else [watch])
    if place == "finetune":
        task.finetune(fitting, loader, strategy=strategy)
    else:
        fitting.fit(task, loader)
    assert watch.seen == [["1"], STATEFUL]  # Lightning's freeze spares batch norms
    assert [group["lr"] for group in fitting.optimizers[0].param_groups] == [0.1, pytest.approx(0.01)]
    assert task.backbone.training

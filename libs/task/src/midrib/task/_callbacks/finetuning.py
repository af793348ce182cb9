"""The callback that freezes and unfreezes a task's backbone."""

from __future__ import annotations

import gc

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from midrib.task._base import TaskBase
from midrib.task._parts.finetuning import StrategyLike


class Finetuning(Callback):
    """Freezes and unfreezes a Task's backbone at the start of each epoch.

    strategy: as in Task(finetuning=...); None: the Task's.  train_bn: let batch norms of frozen layers train; None: the
    Task's.
    A Task adds this callback to its Trainer, so Trainer(callbacks=[Finetuning(...)]) is only needed to override it.
    """

    def __init__(self, strategy: StrategyLike | None = None, *, train_bn: bool | None = None) -> None:
        self.strategy = strategy
        self.train_bn = train_bn

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Set the strategy, and freeze the layers of epoch 0, before the optimizer is made."""
        if stage != "fit":
            return
        task = _task(pl_module)
        if self.strategy is not None or self.train_bn is not None:
            task.set_finetuning(self.strategy, train_bn=self.train_bn)
        task.freeze_for(0)
        # All modules, because Lightning warns of modules in eval mode; on_train_start puts the frozen ones into it.
        nn.Module.train(task)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        pl_module.train()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze and unfreeze the layers that the strategy names for this epoch."""
        task = _task(pl_module)
        if task.freeze_for(trainer.current_epoch):
            _rebuild_ddp(trainer)
        task.train()


class FrozenInEval(Callback):
    """Keeps frozen layers in eval mode beside a finetuning callback of Lightning's, which only freezes parameters."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Start in train mode as a whole, because Lightning warns of modules in eval mode."""
        if stage == "fit":
            nn.Module.train(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        pl_module.train()


def _task(module: LightningModule) -> TaskBase:
    """Return the module as a task. Raises TypeError for another module."""
    if not isinstance(module, TaskBase):
        raise TypeError(f"the Finetuning callback got a {type(module).__name__}, expected a midrib.task.Task")
    return module


def finetuning_of(trainer: Trainer) -> Finetuning | None:
    """Return the Trainer's Finetuning callback, None if it has none."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Finetuning)), None)  # type: ignore[attr-defined] # untyped there


def has_lightnings(trainer: Trainer) -> bool:
    """Return whether the Trainer has a finetuning callback of Lightning's, such as BackboneFinetuning."""
    return any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks)  # type: ignore[attr-defined] # untyped there


def _rebuild_ddp(trainer: Trainer) -> None:
    """Wrap the model again: DDP reduces only the gradients of parameters that could train when it was made."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and strategy.model is not strategy.lightning_module:
        strategy.model = strategy.lightning_module
        gc.collect()  # the old wrapper is in a reference cycle, and removes its hooks when it is collected
        strategy.configure_ddp()

"""The callback that logs losses and metrics at the end of each stage."""

from __future__ import annotations

from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer

from midrib.task._base import TaskBase
from midrib.task._parts.metrics import StageMetrics


class StageLog(Callback):
    """Logs a task's losses and metrics at the end of each stage.

    Not at every step, because their values are of the epoch, and Lightning's log takes as long as a small step.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Move this callback to the front, so that all others find the epoch's values in `trainer.callback_metrics`."""
        undeclared = cast("Any", trainer)  # its callbacks, which their connector sets
        undeclared.callbacks = [self, *(other for other in undeclared.callbacks if other is not self)]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _of(pl_module).reset("train")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _log(pl_module, "train")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _of(pl_module).reset("val")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _log(pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _of(pl_module).reset("test")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _log(pl_module, "test")


def _of(module: LightningModule) -> StageMetrics:
    return cast("TaskBase", module).metrics


def _log(module: LightningModule, stage: str) -> None:
    values = _of(module).take(stage)
    # Equal on all ranks already; sync_dist keeps Lightning from warning that they might not be.
    module.log_dict(
        values, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=1, add_dataloader_idx=False
    )

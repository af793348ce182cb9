"""The progress of a training on stderr: a line for each epoch, counted from 1."""

from __future__ import annotations

import sys
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm  # type: ignore[import-untyped] # it has no types


class EpochBars(ProgressBar):
    """Shows a bar for each epoch, with its number, the number of epochs and the metrics at its end.

    Lightning's bars count epochs from 0, so that a training of one epoch ends with "Epoch 0".
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def disable(self) -> None:
        """Show nothing: Lightning calls it on all processes but the first."""
        self._bar = None

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin the line of an epoch."""
        if trainer.is_global_zero:
            name = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            self._bar = tqdm(total=trainer.num_training_batches, desc=name, unit="batch", file=sys.stderr)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Count a batch."""
        if self._bar is not None:
            self._bar.update()

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """End the line with the metrics."""
        if self._bar is not None:
            self._bar.set_postfix({name: f"{float(value):.3f}" for name, value in trainer.logged_metrics.items()})
            self._bar.close()

    def on_exception(self, *_: Any) -> None:
        """End the line, so that the error begins on a new one."""
        if self._bar is not None:
            self._bar.close()

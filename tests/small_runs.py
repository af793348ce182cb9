"""Small trainings in tests: a quiet Trainer, and marks against Lightning's hints about small runs."""

from __future__ import annotations

import pytest
from pytorch_lightning import Trainer

IGNORED_HINTS = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:`Trainer.fit` stopped"),
]


def quiet_trainer(epochs: int) -> Trainer:
    """Return a Trainer on the CPU that writes nothing."""
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

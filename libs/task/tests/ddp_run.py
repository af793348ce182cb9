"""Two processes on two CPUs train tasks; run by test_task_trainer.py, because each rank is a process of its own.

usage: ddp_run.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.task import ClassificationTask


class Remote(nn.Module):
    """A stand-in for a remote backbone: one client for each rank, no parameters."""

    is_remote = True
    revision = "r" * 64

    def __init__(self) -> None:
        super().__init__()
        self._served = [nn.Linear(8, 16).eval()]
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            features: Tensor = self._served[0](inputs)
        return features


def train(way: str, folder: Path) -> None:
    """Train one task, and write the result of this rank to a file."""
    torch.manual_seed(0)
    backbone: Any = nn.Sequential(nn.Linear(8, 16), nn.Tanh()) if way == "freeze_unfreeze" else Remote()
    task = ClassificationTask((backbone, 16), 3, optimizer="sgd", learning_rate=0.1, **options(way, folder))
    targets = torch.arange(48) % 3
    inputs = torch.randn(48, 8, generator=torch.Generator().manual_seed(1)) + targets.unsqueeze(1)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=6)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, loader, None if way == "cached" else loader)
    trained = torch.cat([parameter.detach().reshape(-1) for parameter in task.parameters()])
    result = {
        "weights": trained.tolist(),
        "losses": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "calls": getattr(backbone, "calls", 0),
    }
    (folder / f"{way}.{trainer.global_rank}").write_text(json.dumps(result))


def options(way: str, folder: Path) -> dict[str, Any]:
    """Return the options of a task."""
    ways: dict[str, dict[str, Any]] = {
        "freeze_unfreeze": {"finetuning": ("freeze_unfreeze", 1)},
        "remote": {},
        "cached": {"cache": str(folder / "cache")},
    }
    return ways[way]


def main(folder: Path) -> None:
    for way in ("freeze_unfreeze", "remote", "cached"):
        train(way, folder)
    torch.distributed.barrier()  # both have written
    os._exit(0)  # gloo's threads abort the end of the interpreter about once in sixty runs


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Two processes on two CPUs train one task; run by test_task_trainer.py, for each rank is its own process.

usage: ddp_run.py STRATEGY OUT
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


def main(strategy: str, out: Path) -> None:
    torch.manual_seed(0)
    backbone: Any = nn.Sequential(nn.Linear(8, 16), nn.Tanh()) if strategy == "freeze_unfreeze" else Remote()
    ways: dict[str, dict[str, Any]] = {
        "freeze_unfreeze": {"finetuning": ("freeze_unfreeze", 1)},
        "remote": {},
        "cached": {"cache": str(out.with_suffix(".cache"))},
    }
    task = ClassificationTask((backbone, 16), 3, optimizer="sgd", learning_rate=0.1, **ways[strategy])
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
    trainer.fit(task, loader, None if strategy == "cached" else loader)
    trained = torch.cat([parameter.detach().reshape(-1) for parameter in task.parameters()])
    result = {
        "weights": trained.tolist(),
        "losses": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "calls": getattr(backbone, "calls", 0),
    }
    out.with_suffix(f".{trainer.global_rank}").write_text(json.dumps(result))
    torch.distributed.barrier()  # both have written
    os._exit(0)  # gloo's threads abort the end of the interpreter about once in sixty runs


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

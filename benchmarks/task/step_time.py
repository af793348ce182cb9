"""How much a Task adds to a training step, over plain Lightning code that does the same.

    python benchmarks/task/step_time.py [--repeats 9] [--steps 200]

writes benchmarks/task/step_time.md. Both trainings log the loss and the accuracy, and freeze the backbone; they take
turns, and each figure is the median over the repeats. On a busy machine believe the CPU time, which waits for nobody.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from midrib.backbones import load_backbone
from midrib.task import ClassificationTask


class Plain(LightningModule):
    """What one writes without midrib: a frozen backbone, a linear head, loss and accuracy logged by epoch."""

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Linear(num_features, num_classes)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def on_train_start(self) -> None:
        """Keep dropout off and statistics still."""
        self.backbone.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """One step."""
        inputs, targets = batch
        with torch.no_grad():
            features = self.backbone(inputs)
        logits = self.head(features)
        loss = F.cross_entropy(logits, targets)
        self.accuracy.update(logits.detach().softmax(dim=-1), targets)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(targets), "prog_bar": True}
        self.log("train_loss", loss.detach(), sync_dist=True, **options)
        self.log("train_accuracy", self.accuracy, **options)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Over the head."""
        return torch.optim.Adam(self.head.parameters())


@dataclass(frozen=True)
class Case:
    """A backbone and the batches that it is given."""

    name: str
    backbone: Callable[[], tuple[nn.Module, int]]
    row: tuple[int, ...]
    batch: int
    batches: int  # in an epoch
    share: float  # of the steps asked for


def mlp() -> tuple[nn.Module, int]:
    """784 → 128 → 256, untrained."""
    backbone = load_backbone("template/classification/mlp-128-256", num_features=784)
    return backbone.module, backbone.num_features


def efficientnet() -> tuple[nn.Module, int]:
    """EfficientNet-Lite0 at 224 pixels."""
    backbone = load_backbone("image/classification/efficientnet-lite0")
    return backbone.module, backbone.num_features


CASES = (
    Case("MLP 784→128→256, batch 64", mlp, (784,), 64, 50, 1.0),
    Case("EfficientNet-Lite0, 224 px, batch 8", efficientnet, (3, 224, 224), 8, 5, 0.05),
)


def step_ms(make: Callable[[], LightningModule], case: Case, steps: int) -> tuple[float, float]:
    """Milliseconds per step of one training: on the wall's clock, and of CPU."""
    rows = torch.randn(case.batch * case.batches, *case.row)
    loader = DataLoader(TensorDataset(rows, torch.arange(len(rows)) % 3), batch_size=case.batch)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = make()
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.fit(module, loader)
    return (time.perf_counter() - wall) * 1e3 / steps, (time.process_time() - cpu) * 1e3 / steps


def measure(case: Case, repeats: int, steps: int) -> list[float]:
    """The medians, in milliseconds per step: plain Lightning's wall and CPU time, and Task's."""
    count = max(8, int(steps * case.share))

    def plain() -> LightningModule:
        return Plain(*case.backbone(), 3)

    def task() -> LightningModule:
        return ClassificationTask(case.backbone(), 3)

    for make in (plain, task):  # the first run of anything pays for everything
        step_ms(make, case, 8)
    turns = [(*step_ms(plain, case, count), *step_ms(task, case, count)) for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    lines = [
        "# Step time: a Task over plain Lightning",
        "",
        f"`python benchmarks/task/step_time.py --repeats {options.repeats} --steps {options.steps}` on "
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, torch "
        f"{torch.__version__}; load average before: {os.getloadavg()[0]:.1f}.",
        "",
        "| backbone | plain Lightning, ms a step (CPU) | Task, ms a step (CPU) | overhead (CPU) |",
        "|---|---|---|---|",
    ]
    for case in CASES:
        wall, cpu, task_wall, task_cpu = measure(case, options.repeats, options.steps)
        lines.append(
            f"| {case.name} | {wall:.3f} ({cpu:.3f}) | {task_wall:.3f} ({task_cpu:.3f}) "
            f"| {task_wall / wall - 1:+.1%} ({task_cpu / cpu - 1:+.1%}) |"
        )
        print(lines[-1])  # noqa: T201 (a script's own words)
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

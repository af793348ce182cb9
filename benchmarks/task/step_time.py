"""How much longer a training step of a Task takes than one of plain Lightning code that does the same.

    python benchmarks/task/step_time.py [--turns 20] [--steps 100]

writes benchmarks/task/step_time.md. Both trainings log the loss and the accuracy of the epoch, and freeze the backbone.
Both are measured in short, alternating turns. The figure of a turn is the median of its steps, each from its begin to
that of the next step, and the overhead is the median of the turns' ratios, so that other load on the machine changes
little. The CPU time is that of complete trainings, including their setup and teardown.
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
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from midrib.backbones import load_backbone
from midrib.task import ClassificationTask


class Plain(LightningModule):
    """The same without Midrib: a frozen backbone, a linear head, loss and accuracy logged once per epoch."""

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Linear(num_features, num_classes)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def on_train_start(self) -> None:
        """Turn dropout off, and freeze the statistics."""
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
        """Return an optimizer for the head."""
        return torch.optim.Adam(self.head.parameters())


@dataclass(frozen=True)
class Case:
    """A backbone and its batches."""

    name: str
    backbone: Callable[[], tuple[nn.Module, int]]
    row: tuple[int, ...]
    batch: int
    batches: int  # in an epoch
    share: float  # of the turns and of the steps asked for


def mlp() -> tuple[nn.Module, int]:
    """Return the perceptron 784-128-256, untrained, with its batches."""
    backbone = load_backbone("template/classification/mlp-128-256", num_features=784)
    return backbone.module, backbone.num_features


def efficientnet() -> tuple[nn.Module, int]:
    """Return EfficientNet-Lite0 at 224 pixels, with its batches."""
    backbone = load_backbone("image/classification/efficientnet-lite0")
    return backbone.module, backbone.num_features


CASES = (
    Case("MLP 784→128→256, batch 64", mlp, (784,), 64, 50, 1.0),
    Case("EfficientNet-Lite0, 224 px, batch 8", efficientnet, (3, 224, 224), 8, 5, 0.25),
)


class Clock(Callback):
    """Records the begin of each step."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Record the time."""
        self.began.append(time.perf_counter())

    def step_ms(self) -> float:
        """Return the median of the milliseconds from one step to the next."""
        return (
            statistics.median(after - before for before, after in zip(self.began, self.began[1:], strict=False)) * 1e3
        )


@dataclass(frozen=True)
class Figures:
    """Milliseconds per step: the median elapsed time, and the CPU time of the training divided by its steps."""

    wall: float
    cpu: float


def train(module: LightningModule, loader: DataLoader[Any], steps: int) -> Figures:
    """Train for one turn, and return its figures."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    cpu = time.process_time()
    trainer.fit(module, loader)
    return Figures(clock.step_ms(), (time.process_time() - cpu) * 1e3 / steps)


def measure(case: Case, turns: int, steps: int) -> list[tuple[Figures, Figures]]:
    """Return the figures of each turn: of plain Lightning, and of Task."""
    rows = torch.randn(case.batch * case.batches, *case.row)
    loader = DataLoader(TensorDataset(rows, torch.arange(len(rows)) % 3), batch_size=case.batch)
    makers: list[Callable[[], LightningModule]] = [
        lambda: Plain(*case.backbone(), 3),
        lambda: ClassificationTask(case.backbone(), 3),
    ]
    for make in makers:  # the first run of anything pays for everything
        train(make(), loader, case.batches)
    pairs = []
    for turn in range(max(4, int(turns * case.share))):
        first = turn % 2
        figures = {
            which: train(makers[which](), loader, max(10, int(steps * case.share))) for which in (first, 1 - first)
        }
        pairs.append((figures[0], figures[1]))
    return pairs


def row(case: Case, pairs: list[tuple[Figures, Figures]]) -> str:
    """Return a line of the table: medians, and the middle half of the turns' ratios."""
    ratios = [task.wall / plain.wall - 1 for plain, task in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    cpu = statistics.median(task.cpu / plain.cpu - 1 for plain, task in pairs)
    plain_ms = statistics.median(plain.wall for plain, _ in pairs)
    task_ms = statistics.median(task.wall for _, task in pairs)
    return f"| {case.name} | {plain_ms:.3f} | {task_ms:.3f} | {middle:+.1%} ({low:+.1%} to {high:+.1%}) | {cpu:+.1%} |"


def main() -> None:
    """Measure every case, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="torch's: more are slower beside a busy neighbour")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    lines = [
        "# Step time: a Task over plain Lightning",
        "",
        f"`python benchmarks/task/step_time.py --turns {options.turns} --steps {options.steps}` on "
        f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} torch thread(s), torch {torch.__version__}; "
        f"load average before: {os.getloadavg()[0]:.1f}. Overhead: the median over turns, and its middle half.",
        "",
        "| backbone | plain Lightning, ms a step | Task, ms a step | overhead | of CPU, whole training |",
        "|---|---|---|---|---|",
    ]
    for case in CASES:
        lines.append(row(case, measure(case, options.turns, options.steps)))
        print(lines[-1], flush=True)  # noqa: T201 (a script's own words)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

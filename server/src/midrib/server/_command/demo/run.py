"""Run `midrib demo`: train one Task on one backbone twice, through a server and in process."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.backbones import Backbone, load_backbone
from midrib.registry import ImageInput
from midrib.server._command.demo.picture import save_maps
from midrib.server._command.demo.textures import CLASSES, PATCH, Patches, load_textures
from midrib.server._command.server_process import server_process
from midrib.task import ClassificationTask

BACKBONE = "image/classification/efficientnet-lite0"
_BATCH_ROWS = 16
_LEARNING_RATE = 1e-2
_console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Run:
    """The result of one training.  accuracy: on the test half, 0..1.  epoch_s: median time per epoch, in seconds."""

    accuracy: float
    epoch_s: float
    rows_per_s: float


def run(out: Path, *, epochs: int) -> None:
    """Run the demo and save its picture to `out`.

    Raises RuntimeError if the server does not come up or does not stop cleanly.
    """
    _quieten()
    seed_everything(0, verbose=False)
    began = time.perf_counter()
    _step(1, f"Starting a server process with {BACKBONE}, pretrained weights from an installed package")
    with server_process(BACKBONE) as (url, process):
        _say(f"serves [bold]{url}[/]; in your code, on any machine that can connect to it:")
        _say(f'[cyan]ClassificationTask(backbone="{url}", num_classes=...)[/]')
        _compare(url, out, epochs)
    if process.returncode != 0:
        raise RuntimeError(f"the server ended with exit status {process.returncode}, expected 0")
    _step(7, f"The server has stopped cleanly; {time.perf_counter() - began:.0f} s in all")


def _compare(url: str, out: Path, epochs: int) -> None:
    train, test = load_textures()
    _step(2, f"Data: photographs of {', '.join(CLASSES)}, in patches of {PATCH} x {PATCH} pixels")
    _say(f"{len(train.labels)} from the left halves to train on, {len(test.labels)} from the right halves to test on")
    local = load_backbone(BACKBONE)
    inputs = [_prepared(local, patches) for patches in (train, test)]
    pixels = [_raw(patches) for patches in (train, test)]
    _step(3, "Training a head through the server (RemoteBackbone)")
    remote_task, remote = _train(url, inputs, epochs)
    _step(4, "Training the same head on the same backbone in this process")
    local_task, in_process = _train(BACKBONE, inputs, epochs)
    _step(5, "Training the same head on raw pixels, for comparison")
    _, raw = _train((nn.Flatten(), 3 * PATCH * PATCH), pixels, epochs)
    _step(6, "The same Task, three times")
    _print_table({"remote backbone": remote, "local backbone": in_process, "raw pixels": raw})
    features, in_process_features = (_features(task, inputs[1].tensors[0]) for task in (remote_task, local_task))
    _say(
        f"largest difference of a remote from a local embedding: {(features - in_process_features).abs().max():.2g} "
        f"(features up to {features.abs().max():.2g})"
    )
    maps = {
        f"{3 * PATCH * PATCH:,} raw pixels: test accuracy {raw.accuracy:.0%}": pixels[1].tensors[0].flatten(1).numpy(),
        f"{features.shape[1]:,} features of EfficientNet-Lite0: test accuracy {remote.accuracy:.0%}": features.numpy(),
    }
    save_maps(out, maps, test)
    _say(f"a map of the test patches, before and after the backbone: [bold]{escape(str(out.resolve()))}[/]")


def _train(backbone: Any, data: list[TensorDataset], epochs: int) -> tuple[ClassificationTask, Run]:
    train, test = data
    task = ClassificationTask(backbone=backbone, num_classes=len(CLASSES), learning_rate=_LEARNING_RATE)
    clock = _EpochClock(rows=len(train))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    generator = torch.Generator().manual_seed(0)
    trainer.fit(task, DataLoader(train, batch_size=_BATCH_ROWS, shuffle=True, generator=generator))
    metrics = trainer.test(task, DataLoader(test, batch_size=_BATCH_ROWS), verbose=False)[0]
    accuracy = next(value for name, value in metrics.items() if "accuracy" in name)
    _say(f"test accuracy {accuracy:.1%}")
    median = sorted(clock.seconds)[len(clock.seconds) // 2]
    return task, Run(float(accuracy), median, len(train) / median)


class _EpochClock(Callback):
    """Print the loss and the time of each epoch, and store the times."""

    def __init__(self, *, rows: int) -> None:
        self.seconds: list[float] = []
        self._rows = rows
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.seconds.append(time.perf_counter() - self._started)
        loss = next((float(value) for name, value in trainer.callback_metrics.items() if "loss" in name), float("nan"))
        _say(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: loss {loss:.4f}, "
            f"{self.seconds[-1]:.2f} s, {self._rows / self.seconds[-1]:.0f} images/s"
        )


def _prepared(backbone: Backbone, patches: Patches) -> TensorDataset:
    return TensorDataset(backbone.prepare_images(list(patches.images)), torch.from_numpy(patches.labels))


def _raw(patches: Patches) -> TensorDataset:
    pixels = torch.from_numpy(patches.images).permute(0, 3, 1, 2).float() / 255
    spec = ImageInput(PATCH)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return TensorDataset((pixels - mean) / std, torch.from_numpy(patches.labels))


def _features(task: ClassificationTask, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([task.backbone(batch) for batch in torch.split(images, _BATCH_ROWS)])


def _print_table(runs: dict[str, Run]) -> None:
    table = Table("", *("test accuracy", "time per epoch", "throughput"), box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, result in runs.items():
        table.add_row(name, f"{result.accuracy:.1%}", f"{result.epoch_s:.2f} s", f"{result.rows_per_s:,.0f} images/s")
    _console.print(Padding(table, (0, 0, 0, 3)))


def _quieten() -> None:
    """Silence Lightning's advice about workers and loggers."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")


def _step(number: int, title: str) -> None:
    _console.print(f"[bold green]{number}.[/] [bold]{title}[/]")


def _say(text: str) -> None:
    _console.print(f"   {text}")

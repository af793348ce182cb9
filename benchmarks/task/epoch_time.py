"""An epoch on the demo's data, with the backbone in this process, on a server, and with cached features.

    python benchmarks/task/epoch_time.py [--epochs 5]

writes benchmarks/task/epoch_time.md. The data are photographs of brick, grass and gravel that scikit-image ships, cut
into 64-pixel patches; the backbone is EfficientNet-Lite0 with its packaged weights. The server is a process of its own
on this same machine, so that it and the trainer share its cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer
from skimage import data
from torch.utils.data import DataLoader, TensorDataset

from midrib.task import ClassificationTask

BACKBONE = "image/classification/efficientnet-lite0"
LABELS = ("brick", "grass", "gravel")
PATCH = 64


class Clock(Callback):
    """How long each epoch took, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self._started)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server process; the URL of its backbone."""
    command = [sys.executable, "-m", "midrib.server.cli", "serve", BACKBONE, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 (our own command)
        try:
            events = (json.loads(line) for line in process.stdout or ())
            yield next(str(event["backbones"][0]["url"]) for event in events if event["event"] == "ready")
        finally:
            process.send_signal(signal.SIGTERM)


def textures() -> tuple[list[Image.Image], torch.Tensor]:
    """The patches of the photographs' left halves, and their classes."""
    images, targets = [], []
    for label, name in enumerate(LABELS):
        photograph = getattr(data, name)()
        for top in range(0, photograph.shape[0] - PATCH + 1, PATCH):
            for left in range(0, photograph.shape[1] // 2 - PATCH + 1, PATCH):
                images.append(Image.fromarray(photograph[top : top + PATCH, left : left + PATCH]).convert("RGB"))
                targets.append(label)
    return images, torch.tensor(targets)


def epochs_of(backbone: str, epochs: int, rows: TensorDataset, cache: str | None) -> list[float]:
    """The seconds of each epoch of one training."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    task = ClassificationTask(backbone, labels=LABELS, learning_rate=0.01, cache=cache)
    trainer.fit(task, DataLoader(rows, batch_size=16, shuffle=True))
    return clock.seconds


def main() -> None:
    """Measure each way and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    images, targets = textures()
    rows = TensorDataset(ClassificationTask(BACKBONE, labels=LABELS).prepare(images), targets)
    load = os.getloadavg()[0]
    with server() as url, tempfile.TemporaryDirectory() as folder:
        ways = {
            "local backbone": (BACKBONE, None),
            "remote backbone, same machine": (url, None),
            "local backbone, cached features": (BACKBONE, f"{folder}/local"),
            "remote backbone, cached features": (url, f"{folder}/remote"),
        }
        seconds = {name: epochs_of(where, options.epochs, rows, cache) for name, (where, cache) in ways.items()}
    write(seconds, len(rows), load, options.epochs)


def write(seconds: dict[str, list[float]], rows: int, load: float, epochs: int) -> None:
    """The table; epochs after the first, by their median, relative to the local backbone's."""
    later = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    local = later["local backbone"]
    lines = [
        "# Epoch time: local, remote and cached",
        "",
        f"`python benchmarks/task/epoch_time.py --epochs {epochs}`: {rows} images of 224 x 224, on "
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, torch "
        f"{torch.__version__}; load average before: {load:.1f}.",
        "",
        "| features | first epoch, s | later epochs, s | speed-up of later epochs |",
        "|---|---|---|---|",
        *(
            f"| {name} | {each[0]:.2f} | {later[name]:.3f} | {local / later[name]:.1f} x |"
            for name, each in seconds.items()
        ),
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))  # noqa: T201 (a script's own words)


if __name__ == "__main__":
    main()

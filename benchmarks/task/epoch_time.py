"""An epoch on the demo's data, with the backbone in this process, on a server, and with cached features.

    python benchmarks/task/epoch_time.py [--rounds 3] [--epochs 3]

writes benchmarks/task/epoch_time.md. The data are photographs of brick, grass and gravel that scikit-image ships, cut
into 64-pixel patches; the backbone is EfficientNet-Lite0 with its packaged weights. The server is another
process on the same machine, so it shares the cores with the trainer.

The routes are measured in rotation, in another order in each round, and each figure is a median over rounds, so that
other load on the machine affects all routes. OpenMP's threads sleep while they wait, in both processes: on a busy
machine, two threads that spin made a forward pass take 8 s in place of 0.4 s. The number of the trainer's threads is
measured first, as the server does at load.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer
from skimage import data
from torch.utils.data import DataLoader, TensorDataset

from midrib.backbones import load_backbone
from midrib.task import ClassificationTask

BACKBONE = "image/classification/efficientnet-lite0"
LABELS = ("brick", "grass", "gravel")
PATCH = 64
BATCH = 16


class Clock(Callback):
    """Records the seconds of each epoch: elapsed time, and CPU time of this process."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self._began = (0.0, 0.0)

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._began = (time.perf_counter(), time.process_time())

    def on_train_epoch_end(self, *_: Any) -> None:
        """Record the epoch."""
        self.wall.append(time.perf_counter() - self._began[0])
        self.cpu.append(time.process_time() - self._began[1])


@dataclass(frozen=True)
class Route:
    """A training to time.  backbone: its name or URL."""

    name: str
    backbone: str
    cached: bool


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Start a server process; yield the URL of its backbone."""
    command = [sys.executable, "-m", "midrib.server.cli", "serve", BACKBONE, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - a known command
        try:
            events = (json.loads(line) for line in process.stdout or ())
            yield next(str(event["backbones"][0]["url"]) for event in events if event["event"] == "ready")
        finally:
            process.send_signal(signal.SIGTERM)


def textures() -> tuple[list[Image.Image], torch.Tensor]:
    """Return the patches of the left halves of the photographs, and their classes."""
    images, targets = [], []
    for label, name in enumerate(LABELS):
        photograph = getattr(data, name)()
        for top in range(0, photograph.shape[0] - PATCH + 1, PATCH):
            for left in range(0, photograph.shape[1] // 2 - PATCH + 1, PATCH):
                images.append(Image.fromarray(photograph[top : top + PATCH, left : left + PATCH]).convert("RGB"))
                targets.append(label)
    return images, torch.tensor(targets)


def train(route: Route, rows: TensorDataset, epochs: int) -> Clock:
    """Train a head, with an empty cache at the start."""
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
    with tempfile.TemporaryDirectory() as folder:
        cache = folder if route.cached else None
        task = ClassificationTask(route.backbone, labels=LABELS, learning_rate=0.01, cache=cache)
        trainer.fit(task, DataLoader(rows, batch_size=BATCH, shuffle=True))
    return clock


def set_best_threads(images: torch.Tensor) -> None:
    """Set the number of threads that computes a batch fastest, by the best of three tries each."""
    backbone = load_backbone(BACKBONE)

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        backbone.embed(images[:BATCH])
        tries = []
        for _ in range(3):
            began = time.perf_counter()
            backbone.embed(images[:BATCH])
            tries.append(time.perf_counter() - began)
        return min(tries)

    torch.set_num_threads(min(range(1, (os.cpu_count() or 1) + 1), key=seconds))


def measure(routes: list[Route], rows: TensorDataset, rounds: int, epochs: int) -> dict[str, list[Clock]]:
    """Return the clocks of each route, one per round."""
    turns: dict[str, list[Clock]] = {route.name: [] for route in routes}
    for turn in range(rounds):
        first = turn % len(routes)
        for route in routes[first:] + routes[:first]:
            turns[route.name].append(train(route, rows, epochs))
            print(f"round {turn + 1}: {route.name}: {turns[route.name][-1].wall}", flush=True)  # noqa: T201
    return turns


def table(turns: dict[str, list[Clock]]) -> list[str]:
    """Return the table: medians over rounds, and the speed-up of later epochs over those of the local backbone."""
    later = {name: statistics.median(s for clock in clocks for s in clock.wall[1:]) for name, clocks in turns.items()}
    local = next(iter(later.values()))
    lines = [
        "| features | first epoch, s | later epochs, s | of that the trainer's CPU, s | speed-up of later epochs |",
        "|---|---|---|---|---|",
    ]
    for name, clocks in turns.items():
        first = statistics.median(clock.wall[0] for clock in clocks)
        cpu = statistics.median(s for clock in clocks for s in clock.cpu[1:])
        lines.append(f"| {name} | {first:.2f} | {later[name]:.3f} | {cpu:.3f} | {local / later[name]:.1f} x |")
    return lines


def main() -> None:
    """Measure each route, and write the table."""
    if "OMP_WAIT_POLICY" not in os.environ:  # torch read it when it was imported: start again
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 - this program
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
    images, targets = textures()
    rows = TensorDataset(ClassificationTask(BACKBONE, labels=LABELS).prepare(images), targets)
    set_best_threads(rows.tensors[0])
    load = os.getloadavg()[0]
    with server() as url:
        routes = [
            Route("local backbone", BACKBONE, cached=False),
            Route("remote backbone, same machine", url, cached=False),
            Route("local backbone, cached features", BACKBONE, cached=True),
            Route("remote backbone, cached features", url, cached=True),
        ]
        lines = table(measure(routes, rows, options.rounds, options.epochs))
    head = [
        "# Epoch time: local, remote and cached",
        "",
        f"`python benchmarks/task/epoch_time.py --rounds {options.rounds} --epochs {options.epochs}`: {len(rows)} "
        f"images of 224 x 224, on {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} thread(s) in the trainer; load average before: {load:.1f}.",
        "",
    ]
    options.out.write_text("\n".join(head + lines) + "\n")
    print("\n".join(lines))  # noqa: T201 - the output of the program


if __name__ == "__main__":
    main()

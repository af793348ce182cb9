"""What it costs that a backbone is remote: `python benchmarks/remote/run.py` writes benchmarks/remote/README.md.

The server is another process on the same machine. Each figure is the median of repeated runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.backbones import load_backbone
from midrib.remote import AsyncClient, Client, RemoteBackbone

HERE = Path(__file__).parent
MLP = "template/classification/mlp-128-256"
IMAGES = "image/classification/efficientnet-lite0"
SERVER = f"""
import sys
from midrib.server.testing import serving
with serving({{"name": "{MLP}", "arguments": {{"num_features": 784}}}}, "{IMAGES}") as running:
    print(running.address, flush=True)
    sys.stdin.read()
"""


@contextmanager
def server() -> Iterator[str]:
    """The address of a server in a process of its own."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the server's pipes are missing")
        yield process.stdout.readline().strip()
        process.stdin.close()


def seconds(work: Callable[[], object], budget_s: float) -> float:
    """The median time of one call, over as many as fit the budget (3 at least)."""
    work()
    times: list[float] = []
    until = time.perf_counter() + budget_s
    while len(times) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def batches(address: str, budget_s: float) -> Iterator[str]:
    """`backbone(x)`, remote against local."""
    yield "## `backbone(x)`: remote against local\n"
    yield "| backbone | rows | local ms | remote ms | remote/local | remote rows/s |"
    yield "|---|---|---|---|---|---|"
    cases: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
        (MLP, {"num_features": 784}, (784,), (1, 16, 64, 256, 1024)),
        (IMAGES, {}, (3, 224, 224), (1, 8, 32)),
    ]
    for name, arguments, shape, counts in cases:
        here, remote = load_backbone(name, **arguments).module, RemoteBackbone(f"grpc://{address}/{name}")
        for count in counts:
            x = torch.randn(count, *shape)
            with torch.inference_mode():
                local_s = seconds(lambda module=here, x=x: module(x), budget_s)  # type: ignore[misc]
                remote_s = seconds(lambda module=remote, x=x: module(x), budget_s)  # type: ignore[misc]
            yield (
                f"| {name} | {count} | {1e3 * local_s:.2f} | {1e3 * remote_s:.2f} | {remote_s / local_s:.2f} "
                f"| {count / remote_s:,.0f} |"
            )


def callers(address: str, budget_s: float) -> Iterator[str]:
    """Concurrent callers of one row, in one process."""
    yield "\n## Concurrent callers of one row (MLP)\n"
    yield "| callers | threads, rows/s | tasks, rows/s |"
    yield "|---|---|---|"
    row = np.random.default_rng(0).standard_normal((1, 784), np.float32)
    rows = [row + index for index in range(64)]  # equal ones in flight would be asked once
    for count in (1, 16, 64):
        threads = _threads(address, rows[:count], budget_s)
        tasks = asyncio.run(_tasks(address, rows[:count], budget_s))
        yield f"| {count} | {threads:,.0f} | {tasks:,.0f} |"


def _threads(address: str, rows: list[np.ndarray], budget_s: float) -> float:
    client, done = Client(address), [0] * len(rows)
    client.embed(MLP, rows[0])
    until = time.perf_counter() + budget_s

    def call(index: int) -> None:
        while time.perf_counter() < until:
            client.embed(MLP, rows[index])
            done[index] += 1

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / budget_s


async def _tasks(address: str, rows: list[np.ndarray], budget_s: float) -> float:
    client, done = AsyncClient(address), [0] * len(rows)
    await client.embed(MLP, rows[0])
    until = time.perf_counter() + budget_s

    async def call(index: int) -> None:
        while time.perf_counter() < until:
            await client.embed(MLP, rows[index])
            done[index] += 1

    await asyncio.gather(*(call(index) for index in range(len(rows))))
    return sum(done) / budget_s


def streams(address: str, budget_s: float) -> Iterator[str]:
    """`embed_stream`, and what the client's own work costs."""
    yield "\n## `embed_stream` (MLP, 64 rows a batch)\n"
    yield "| wire type | rows/s | client CPU us a batch | bytes a row |"
    yield "|---|---|---|---|"
    client = Client(address)
    for dtype in ("float32", "float16"):
        batch = np.random.default_rng(0).standard_normal((64, 784), np.float32).astype(dtype)
        count = max(50, int(400 * budget_s))
        began, cpu = time.perf_counter(), time.process_time()
        for _ in client.embed_stream(MLP, (batch for _ in range(count)), dtype=dtype):
            pass
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        size = batch.nbytes // 64 + 256 * batch.itemsize
        yield f"| {dtype} | {64 * count / wall:,.0f} | {1e6 * cpu / count:.0f} | {size} |"


def training(address: str, budget_s: float, folder: Path) -> Iterator[str]:
    """An epoch of a head over a frozen backbone."""
    yield "\n## An epoch of a head over frozen EfficientNet-Lite0 (64 images, batches of 16)\n"
    yield "| backbone | s an epoch |"
    yield "|---|---|"
    url = f"grpc://{address}/{IMAGES}"
    cached = RemoteBackbone(url, cache=folder / "features.db")
    kinds = {"local": load_backbone(IMAGES).module, "remote": RemoteBackbone(url), "remote, cached": cached}
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(64, 3, 224, 224), torch.arange(64) % 4), batch_size=16)
    for kind, backbone in kinds.items():
        head = nn.Linear(1280, 4)
        spent = seconds(lambda backbone=backbone, head=head: _epoch(backbone, head, data), budget_s)  # type: ignore[misc]
        yield f"| {kind} | {spent:.2f} |"


def _epoch(backbone: nn.Module, head: nn.Module, data: DataLoader[tuple[Tensor, ...]]) -> None:
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    for x, y in data:
        with torch.no_grad():
            features = backbone(x)
        loss = nn.functional.cross_entropy(head(features), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def main() -> None:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget-s", type=float, default=1.0, help="seconds for each figure")
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    options = parser.parse_args()
    import tempfile

    lines = ["# What it costs that a backbone is remote\n", *_machine()]
    with server() as address, tempfile.TemporaryDirectory() as folder:
        for part in (
            batches(address, options.budget_s),
            callers(address, options.budget_s),
            streams(address, options.budget_s),
            training(address, options.budget_s, Path(folder)),
        ):
            lines.extend(part)
    options.out.write_text("\n".join(lines) + "\n")


def _machine() -> Iterator[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"{cores} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__},"
    yield f"{torch.get_num_threads()} intra-op thread(s) in the client; client and server share the cores."
    yield "Command: `python benchmarks/remote/run.py`. Load of the machine when it ran (1 minute): "
    yield f"{os.getloadavg()[0]:.1f}.\n"


if __name__ == "__main__":
    main()

"""What it costs that a backbone is remote: `python benchmarks/remote/run.py` writes benchmarks/remote/README.md.

The server is `midrib serve`, with its defaults, in a process of its own on the same cores. The local backbone has the
threads, and the rows at a time, that are fastest for it. Each figure is the median of repeated runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from echo import echo, echo_server
from local import CORES, best_way
from processes import SERVING, midrib_server, seconds
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.backbones import load_backbone
from midrib.remote import AsyncClient, Client, RemoteBackbone

sys.path.insert(0, str(SERVING))
import bench_models  # noqa: F401 - registers the MLP and the ViT, with the server's own weights

HERE = Path(__file__).parent
MLP = "benchmark/embedding/mlp"
VIT = "benchmark/embedding/vit-tiny"
EFFICIENTNET = "image/classification/efficientnet-lite0"
IMAGE = (3, 224, 224)
CASES: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    (MLP, (784,), (1, 16, 64, 256, 1024)),
    (EFFICIENTNET, IMAGE, (1, 8, 32, 128, 1024)),
    (VIT, IMAGE, (1, 8, 32, 128, 1024)),
]
TIMEOUT_S = 600.0


def batches(address: str, budget_s: float, most_rows: int) -> Iterator[str]:
    """`backbone(x)`, remote against local."""
    yield "## `backbone(x)`: remote against local\n"
    yield "| backbone | rows | local ms | locally | remote ms | remote/local | float16 ms | remote rows/s |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, shape, counts in CASES:
        here = load_backbone(name).module
        remote, half = (
            RemoteBackbone(f"grpc://{address}/{name}", timeout=TIMEOUT_S, dtype=d) for d in (None, "float16")
        )
        for count in (count for count in counts if count <= most_rows):
            x = torch.randn(count, *shape)
            way = best_way(here, x, budget_s)
            with torch.inference_mode():
                local_s = _call_s(way.bind(here), x, budget_s)
                torch.set_num_threads(1)  # the cores are the server's now
                remote_s, half_s = (_call_s(each, x, budget_s) for each in (remote, half))
            yield (
                f"| {name} | {count} | {1e3 * local_s:.2f} | {way} | {1e3 * remote_s:.2f} | {remote_s / local_s:.2f} "
                f"| {1e3 * half_s:.2f} | {count / remote_s:,.0f} |"
            )


def _call_s(backbone: Callable[[Tensor], object], x: Tensor, budget_s: float) -> float:
    return seconds(lambda: backbone(x), budget_s)


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


def against_the_echo(address: str, budget_s: float) -> Iterator[str]:
    """What the client's own work costs an item, beside a raw stream of the same bytes."""
    yield "\n## An item's cost to the client, beside a raw stream of the same bytes (MLP)\n"
    yield "The raw stream is grpc.aio on uvloop at both ends, and computes nothing.\n"
    yield (
        "| rows | bytes out, back | alone: Midrib ms | echo ms | stream: Midrib items/s | echo items/s "
        "| CPU us an item: Midrib | echo |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    with echo_server() as limit:
        for rows in (1, 64, 512):
            batch = np.random.default_rng(0).standard_normal((rows, 784), np.float32)
            raw = echo(limit, batch.nbytes, rows * 256 * 4, budget_s)
            alone_s, per_s, cpu_us = _streamed(address, batch, budget_s)
            yield (
                f"| {rows} | {batch.nbytes:,}, {rows * 1024:,} | {1e3 * alone_s:.2f} | {raw.alone_ms:.2f} "
                f"| {per_s:,.0f} | {raw.per_s:,.0f} | {cpu_us:.0f} | {raw.cpu_us:.0f} |"
            )


def _streamed(address: str, batch: np.ndarray, budget_s: float) -> tuple[float, float, float]:
    """Seconds of a lone call; batches a second of a stream, and microseconds of CPU each."""
    client = Client(address)
    alone_s = seconds(lambda: client.embed(MLP, batch), budget_s)
    count = max(50, int(budget_s / alone_s))
    # Each another: equal ones in flight would be asked once.
    several = [batch + index for index in range(min(count, 200))]
    began, cpu = time.perf_counter(), time.process_time()
    for _ in client.embed_stream(MLP, (several[index % len(several)] for index in range(count))):
        pass
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return alone_s, count / wall, 1e6 * cpu / count


def wire_types(address: str, budget_s: float) -> Iterator[str]:
    """What smaller types save, on the wire and in time."""
    yield "\n## Wire types (MLP, 1024 rows a call)\n"
    yield "| dtype | bytes a row out | back | ms |"
    yield "|---|---|---|---|"
    x = torch.randn(1024, 784)
    for dtype in (None, "float16", "bfloat16", "int8"):
        backbone = RemoteBackbone(f"grpc://{address}/{MLP}", dtype=dtype)
        before = backbone.stall
        spent_s = seconds(lambda backbone=backbone: backbone(x), budget_s)  # type: ignore[misc] # a lambda's default is untyped
        bytes_ = backbone.stall - before
        out, back = bytes_.sent_bytes / bytes_.rows, bytes_.received_bytes / bytes_.rows
        yield f"| {dtype or 'float32'} | {out:,.0f} | {back:,.0f} | {1e3 * spent_s:.2f} |"


def training(address: str, budget_s: float, folder: Path) -> Iterator[str]:
    """Steps and epochs of a head over a frozen backbone."""
    yield "\n## A head over a frozen backbone (64 images, batches of 16, by a DataLoader)\n"
    yield "| backbone | where | ms a step | remote/local | s an epoch |"
    yield "|---|---|---|---|---|"
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(64, *IMAGE), torch.arange(64) % 4), batch_size=16)
    for name in (EFFICIENTNET, VIT):
        loaded = load_backbone(name)
        module, width = loaded.module, loaded.num_features
        way = best_way(module, torch.randn(16, *IMAGE), budget_s)
        url = f"grpc://{address}/{name}"
        local_s = _epoch_s(way.bind(module), width, data, budget_s)
        torch.set_num_threads(1)
        cached = RemoteBackbone(url, cache=folder / f"{name.replace('/', '-')}.db")
        _epoch(cached, nn.Linear(width, 4), data)  # which fills it
        remote_s, cached_s = (_epoch_s(each, width, data, budget_s) for each in (RemoteBackbone(url), cached))
        for where, spent in (
            (f"local ({way})", local_s),
            ("remote", remote_s),
            ("remote, cached", cached_s),
        ):
            yield f"| {name} | {where} | {1e3 * spent / 4:.1f} | {spent / local_s:.2f} | {spent:.2f} |"


def _epoch_s(backbone: Callable[[Tensor], Tensor], width: int, data: DataLoader[Any], budget_s: float) -> float:
    head = nn.Linear(width, 4)
    return seconds(lambda: _epoch(backbone, head, data), budget_s)


def _epoch(backbone: Callable[[Tensor], Tensor], head: nn.Module, data: DataLoader[Any]) -> None:
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    for x, y in data:
        with torch.no_grad():
            features = backbone(x)
        loss = nn.functional.cross_entropy(head(features), y)
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget-s", type=float, default=1.0, help="seconds for each figure")
    parser.add_argument("--most-rows", type=int, default=1024, help="the largest batch")
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    options = parser.parse_args()
    lines = ["# What it costs that a backbone is remote\n", *_machine()]
    with midrib_server(MLP, VIT, EFFICIENTNET) as address, tempfile.TemporaryDirectory() as folder:
        for part in (
            batches(address, options.budget_s, options.most_rows),
            callers(address, options.budget_s),
            against_the_echo(address, options.budget_s),
            wire_types(address, options.budget_s),
            training(address, options.budget_s, Path(folder)),
        ):
            lines.extend(part)
    options.out.write_text("\n".join(lines) + "\n")


def _machine() -> Iterator[str]:
    yield f"{CORES} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}."
    yield "Client and server (`midrib serve`, its defaults) share the cores; the local backbone runs with the threads"
    yield "and the rows at a time that are fastest for it. Command: `python benchmarks/remote/run.py`."
    yield f"Load of the machine before it (1 minute): {os.getloadavg()[0]:.1f}.\n"


if __name__ == "__main__":
    main()

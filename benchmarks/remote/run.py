"""The cost of a remote backbone: `python benchmarks/remote/run.py` writes benchmarks/remote/README.md.

The server is `midrib serve`, with its defaults, in another process on the same cores. The local backbone has the
threads, and the rows at a time, that are fastest for it. Measurements of remote and local are interleaved, and their
ratio is the median of the ratios of pairs: with one run after the other it would be noise, because the machine's speed
drifts by a quarter within minutes. The other figures are medians of repeated runs, or of one stream.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from compare import EFFICIENTNET, MLP, VIT, batches, training
from echo import echo, echo_server
from interleaved import FIGURE_S
from local import CORES, Plans
from processes import midrib_server, seconds

from midrib.remote import AsyncClient, Client, RemoteBackbone

HERE = Path(__file__).parent


def callers(address: str, budget_s: float) -> Iterator[str]:
    """Yield the table of concurrent callers of one row, in one process."""
    yield "\n## Concurrent callers of one row (MLP)\n"
    yield "| callers | threads, rows/s | tasks, rows/s |"
    yield "|---|---|---|"
    row = np.random.default_rng(0).standard_normal((1, 784), np.float32)
    rows = [row + index for index in range(64)]  # different inputs, as of different callers
    for count in (1, 16, 64):
        threads = _threads(address, rows[:count], budget_s)
        tasks = asyncio.run(_tasks(address, rows[:count], budget_s))
        yield f"| {count} | {threads:,.0f} | {tasks:,.0f} |"


def _threads(address: str, rows: list[np.ndarray], budget_s: float) -> float:
    done = [0] * len(rows)

    def call(client: Client, index: int, until: float) -> None:
        while time.perf_counter() < until:
            client.embed(MLP, rows[index])
            done[index] += 1

    with Client(address) as client:
        client.embed(MLP, rows[0])
        until = time.perf_counter() + budget_s
        threads = [threading.Thread(target=call, args=(client, index, until)) for index in range(len(rows))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(done) / budget_s


async def _tasks(address: str, rows: list[np.ndarray], budget_s: float) -> float:
    done = [0] * len(rows)

    async def call(client: AsyncClient, index: int, until: float) -> None:
        while time.perf_counter() < until:
            await client.embed(MLP, rows[index])
            done[index] += 1

    async with AsyncClient(address) as client:
        await client.embed(MLP, rows[0])
        until = time.perf_counter() + budget_s
        await asyncio.gather(*(call(client, index, until) for index in range(len(rows))))
    return sum(done) / budget_s


def against_the_echo(address: str, budget_s: float) -> Iterator[str]:
    """Yield the table of the client's work for an item, beside a raw stream of the same bytes."""
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
            single_s, per_s, cpu_us = _streamed(address, batch, budget_s)
            yield (
                f"| {rows} | {batch.nbytes:,}, {rows * 1024:,} | {1e3 * single_s:.2f} | {raw.single_ms:.2f} "
                f"| {per_s:,.0f} | {raw.per_s:,.0f} | {cpu_us:.0f} | {raw.cpu_us:.0f} |"
            )


def _streamed(address: str, batch: np.ndarray, budget_s: float) -> tuple[float, float, float]:
    """Return the seconds of a single call; a stream's batches a second, and microseconds of CPU for each."""
    client = Client(address)
    single_s = seconds(lambda: client.embed(MLP, batch), budget_s)
    count = max(50, int(budget_s / single_s))
    several = [batch + index for index in range(min(count, 200))]
    began, cpu = time.perf_counter(), time.process_time()
    for _ in client.embed_stream(MLP, (several[index % len(several)] for index in range(count))):
        pass
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return single_s, count / wall, 1e6 * cpu / count


def wire_types(address: str, budget_s: float) -> Iterator[str]:
    """Yield the table of wire types: bytes and time."""
    yield "\n## Wire types (MLP, 1024 rows a call)\n"
    yield "| dtype | bytes a row out | back | ms |"
    yield "|---|---|---|---|"
    x = torch.randn(1024, 784)
    torch.set_num_threads(1)  # the server has the cores
    for dtype in (None, "float16", "bfloat16", "int8"):
        backbone = RemoteBackbone(f"grpc://{address}/{MLP}", dtype=dtype)
        before = backbone.stall
        spent_s = seconds(lambda backbone=backbone: backbone(x), budget_s)  # type: ignore[misc] # a lambda's default is untyped
        step = backbone.stall - before
        out, back = step.sent_bytes / step.rows, step.received_bytes / step.rows
        yield f"| {dtype or 'float32'} | {out:,.0f} | {back:,.0f} | {1e3 * spent_s:.2f} |"


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget-s", type=float, default=1.0, help="seconds for each figure")
    parser.add_argument("--most-rows", type=int, default=1024, help="the largest batch")
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    options = parser.parse_args()
    lines = ["# The cost of a remote backbone\n", *_machine()]
    plans = Plans(options.budget_s)
    servers = partial(midrib_server, MLP, VIT, EFFICIENTNET)
    with servers() as address:
        for part in (
            batches(address, plans, options.budget_s, options.most_rows),
            callers(address, options.budget_s),
            against_the_echo(address, options.budget_s),
            wire_types(address, options.budget_s),
        ):
            lines.extend(part)
    lines.extend(training(servers, plans, options.budget_s))
    options.out.write_text("\n".join(lines) + "\n")


def _machine() -> Iterator[str]:
    yield f"{CORES} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}."
    yield "Client and server (`midrib serve` with its defaults) share the cores. The local backbone runs with the"
    yield "threads and the rows at a time that are fastest for it, one pass after the other, as a module is called."
    yield "The server may run passes in parallel. Command: `python benchmarks/remote/run.py`."
    yield f"Remote and local are measured alternately (one call, or the calls that fit {1e3 * FIGURE_S:.0f} ms): ms are"
    yield "medians, and remote/local is the median of the ratios of pairs, which may differ from the ratio of the"
    yield "medians, because the speed of the machine changes and other processes share it."
    yield f"Load of the machine before it (1 minute): {os.getloadavg()[0]:.1f}.\n"


if __name__ == "__main__":
    main()

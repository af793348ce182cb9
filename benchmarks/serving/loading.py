"""Measure how long a server takes to start and to load, with worker processes and with threads.

`python benchmarks/serving/loading.py` starts `midrib serve` with each kind in turns, and loads a second backbone. It
prints medians over the rounds, and the largest values: seconds from the command to the address, from there to the first
backbone, and of the load of the second one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from worker_rates import KINDS
from works import KEYS

from midrib.remote import AsyncClient

HERE = Path(__file__).parent
_SECOND = "template/classification/mlp-128-256"


class Seconds(NamedTuple):
    """listening: from the command to the address.  first: from there to the first backbone.  second: a later load."""

    listening: float
    first: float
    second: float


def main() -> None:
    """Parse the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(KEYS), default="mlp")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    measure_starts(options.model, options.rounds, show=_print)


def measure_starts(model: str, rounds: int, *, show: Callable[[str], None]) -> None:
    """Start servers with both kinds of workers in turns, and show a table and the time that processes add."""
    measured: dict[str, list[Seconds]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 else reversed(KINDS):
            measured[kind].append(_measure(kind, model))
    show("| replicas | to the address, s | first load, s | start to first load, s | second load, s |")
    show("|---|---|---|---|---|")
    for kind, seconds in measured.items():
        show(_line(kind, seconds))
    added = [sum(process[:2]) - sum(thread[:2]) for process, thread in zip(*reversed(measured.values()), strict=True)]
    median = statistics.median(added)
    show(f"added by processes until the first load: median {median:.2f} s, at most {max(added):.2f} s")


def _measure(kind: str, model: str) -> Seconds:
    command = [sys.executable, "-m", "midrib.server.cli", "serve", KEYS[model], "--import", "bench_models"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "MIDRIB_WORKERS": kind, "MIDRIB_DEVICE": "cpu"}
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--port", "0", "--json", "--admin"],  # noqa: S603 - ours
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        lines = iter(process.stdout or ())
        address = json.loads(next(lines))["address"]
        listening = time.monotonic()
        next(lines)
        ready = time.monotonic()
        asyncio.run(_load(address))
        loaded = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate()
    return Seconds(listening - began, ready - listening, loaded - ready)


async def _load(address: str) -> None:
    async with AsyncClient(address, timeout=60) as client:
        await client.load(_SECOND, num_features=784)


def _line(kind: str, rounds: Sequence[Seconds]) -> str:
    columns = [*zip(*rounds, strict=True)]
    columns.insert(2, tuple(map(sum, zip(*columns[:2], strict=True))))
    cells = [f"{statistics.median(column):.2f} (at most {max(column):.2f})" for column in columns]
    return f"| {kind} | {' | '.join(cells)} |"


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    main()

"""Measure the latency of a backbone beside another one whose worker is killed again and again.

`python benchmarks/serving/neighbour.py` serves the MLP and a ViT-Tiny in worker processes. One caller asks for the MLP,
in rounds with and without a SIGKILL of the ViT's worker every two seconds. It prints p50 and p99 of both.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from load import Sample, sample
from loads import CallerLoad
from works import KEYS, Setting

from clients import StubCaller
from midrib.server._command.status import read_metrics, read_status

HERE = Path(__file__).parent
_PAUSE_S = 2.0


def main() -> None:
    """Parse the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with _server() as (address, http):
        uvloop.run(_compare(address, http, rounds=options.rounds, seconds=options.seconds))


@contextmanager
def _server() -> Iterator[tuple[str, str]]:
    """Start the server; yield its gRPC and HTTP addresses once both backbones are ready."""
    names = KEYS["mlp"], KEYS["vit"]
    command = [sys.executable, "-m", "midrib.server.cli", "serve", *names, "--import", "bench_models", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "MIDRIB_WORKERS": "process"}
    command += ["--port", "0", "--http-port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        lines = iter(process.stdout or ())
        loading, _ready = (json.loads(next(lines)) for _ in range(2))
        try:
            yield loading["address"], loading["http"]
        finally:
            process.send_signal(signal.SIGTERM)


async def _compare(address: str, http: str, *, rounds: int, seconds: float) -> None:
    caller = CallerLoad(StubCaller, address, "mlp")
    samples: dict[str, list[Sample]] = {"alone": [], "beside kills": []}
    for _ in range(rounds):
        samples["alone"].append(sample(*await caller.run(Setting(1, 1), seconds), 1))
        killing = asyncio.create_task(_kill(http))
        samples["beside kills"].append(sample(*await caller.run(Setting(1, 1), seconds), 1))
        killing.cancel()
    for name, measured in samples.items():
        p50, p99 = (statistics.median(getattr(each, field) for each in measured) for field in ("p50_ms", "p99_ms"))
        line = f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        print(line, flush=True)  # noqa: T201 - the result


async def _kill(http: str) -> None:
    """Kill the ViT's worker every two seconds, if it runs."""
    while True:
        status = read_status(await asyncio.to_thread(read_metrics, http, None))
        for worker in next(each.workers for each in status if each.name == KEYS["vit"]):
            if worker.running:
                os.kill(worker.pid, signal.SIGKILL)
        await asyncio.sleep(_PAUSE_S)


if __name__ == "__main__":
    main()

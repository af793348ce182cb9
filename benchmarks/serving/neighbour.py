"""Measure the latency of a backbone beside another one whose module misbehaves, for every fault of `faulty.py`.

`python benchmarks/serving/neighbour.py` serves the MLP and a faulty backbone in worker processes. One caller asks for
the MLP: undisturbed, then beside another caller whose rows, or loads, make the other module misbehave every `--pause`
seconds, then beside one that does so as often as the server answers it. It prints a table of p50 and p99 of the MLP,
medians over the rounds. It takes about five minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvloop
from faulty import DIES_LOADING, FAULTS, KEY, TRIGGER
from load import Sample, sample
from loads import CallerLoad
from works import KEYS, Setting

from clients import StubCaller
from midrib.remote import AsyncClient
from midrib.wire import MidribError

HERE = Path(__file__).parent
_MAX_BATCH_S = 1.0
_SHORTEST_PAUSE_S = 0.2


def main() -> None:
    """Parse the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two faults, for the first ratio")
    parser.add_argument("--faults", nargs="*", choices=sorted(FAULTS), default=list(FAULTS))
    options = parser.parse_args()
    with _server() as address:
        uvloop.run(_compare(address, options))


@contextmanager
def _server() -> Iterator[str]:
    """Start the server; yield its address once both backbones are ready."""
    modules = ["--import", "bench_models", "--import", "faulty"]
    command = [sys.executable, "-m", "midrib.server.cli", "serve", KEYS["mlp"], KEY, *modules, "--json", "--admin"]
    settings = {"MIDRIB_WORKERS": "process", "MIDRIB_MAX_BATCH_S": str(_MAX_BATCH_S), "MIDRIB_DEVICE": "cpu"}
    environment = {**os.environ, "PYTHONPATH": str(HERE), **settings}
    command += ["--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        lines = iter(process.stdout or ())
        loading, _ready = (json.loads(next(lines)) for _ in range(2))
        try:
            yield loading["address"]
        finally:
            process.send_signal(signal.SIGTERM)


async def _compare(address: str, options: argparse.Namespace) -> None:
    caller = CallerLoad(StubCaller, address, "mlp")
    every = f"a fault every {options.pause:g} s"
    _print(f"| fault | p50, ms | p99, ms | p99, {every} | ratio | p99, as often as possible | ratio |")
    _print("|---|---|---|---|---|---|---|")
    for fault in options.faults:
        async with AsyncClient(address, timeout=60) as client:
            await client.load(KEY, replace=True, fault=fault)
        undisturbed: list[Sample] = []
        every_pause: list[Sample] = []
        often: list[Sample] = []
        for _ in range(options.rounds):
            undisturbed.append(sample(*await caller.run(Setting(1, 1), options.seconds), 1))
            for pause_s, samples in ((options.pause, every_pause), (_SHORTEST_PAUSE_S, often)):
                misbehaving = asyncio.create_task(_misbehave(address, fault, pause_s))
                samples.append(sample(*await caller.run(Setting(1, 1), options.seconds), 1))
                misbehaving.cancel()
                await asyncio.gather(misbehaving, return_exceptions=True)
        _print(_line(fault, undisturbed, every_pause, often))


async def _misbehave(address: str, fault: str, pause_s: float) -> None:
    """Send the row, or ask for the load, that makes the other module misbehave, until cancelled."""
    async with AsyncClient(address, timeout=60) as client:
        while True:
            with contextlib.suppress(MidribError):
                if fault == DIES_LOADING:
                    await client.load(KEY, replace=True, fault=fault, dying=True)
                else:
                    await client.embed(KEY, np.full((1, 2), TRIGGER, np.float32))
            await asyncio.sleep(pause_s)


def _line(fault: str, undisturbed: list[Sample], *disturbed: list[Sample]) -> str:
    p50_ms = statistics.median(each.p50_ms for each in undisturbed)
    p99_ms, *p99s_ms = (statistics.median(each.p99_ms for each in samples) for samples in (undisturbed, *disturbed))
    cells = [p50_ms, p99_ms, *(cell for value in p99s_ms for cell in (value, value / p99_ms))]
    return f"| {fault} | {' | '.join(f'{cell:.2f}' for cell in cells)} |"


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    main()

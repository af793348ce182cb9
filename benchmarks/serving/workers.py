"""Compare `workers = "process"` with `workers = "thread"`: two servers of one backbone, measured alternately.

`python benchmarks/serving/workers.py` prints, for each setting, the medians of the rates, their ratio and the
processor time of a call, apart for the server's process and for its workers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from contenders import CallerMaker
from load import Sample, sample
from loads import CallerLoad
from processes import ServerProcess, free_port
from works import KEYS, Setting

from clients import MidribCaller, StubCaller

HERE = Path(__file__).parent
KINDS = ("thread", "process")
CLIENTS: dict[str, CallerMaker] = {"stubs": StubCaller, "client": MidribCaller}
SETTINGS = (Setting(1, 1), Setting(1, 16), Setting(1, 64), Setting(64, 8))
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measurement:
    """The calls of one round. front_us, workers_us: processor time of a call."""

    calls: Sample
    front_us: float
    workers_us: float


class Server:
    """`midrib serve` with one kind of workers, stopped by SIGSTOP while the other one is measured."""

    def __init__(self, kind: str, model: str, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._model = model
        command = [sys.executable, "-m", "midrib.server.cli", "serve", KEYS[model], "--import", "bench_models"]
        options = ["--port", self.address.rpartition(":")[2]]
        environment = {"PYTHONPATH": str(HERE), "MIDRIB_WORKERS": kind}
        self.process = ServerProcess([*command, *options], folder / f"{kind}.log", environment=environment)

    async def ready(self) -> None:
        """Wait for the first answer, then stop the process."""
        while True:
            try:
                await CallerLoad(StubCaller, self.address, self._model).run(Setting(1, 1), 0.1)
            except Exception:  # noqa: BLE001 - any error means that it is not ready yet
                if not self.process.running:
                    raise RuntimeError(self.process.last_line()) from None
                await asyncio.sleep(0.2)
            else:
                self.process.freeze()
                return

    async def measure(self, make: CallerMaker, setting: Setting, seconds: float) -> Measurement:
        """Measure one round."""
        self.process.thaw()
        try:
            before = self._cpu_s()
            began, ended = await CallerLoad(make, self.address, self._model).run(setting, seconds)
            front_s, workers_s = (after - start for after, start in zip(self._cpu_s(), before, strict=True))
        finally:
            self.process.freeze()
        calls = sample(began, ended, setting.rows)
        computed = len(ended) * (1.2 if calls.calls > 1 else 1.0)  # a round's warm-up is a fifth of its time
        return Measurement(calls, 1e6 * front_s / computed, 1e6 * workers_s / computed)

    def _cpu_s(self) -> tuple[float, float]:
        front = _cpu_s(self.process.process.pid)
        return front, self.process.cpu_s() - front


def main() -> None:
    """Parse the options, start both servers, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["mlp", "vit"], default="mlp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--settings", nargs="*", default=[str(setting).replace(" ", "") for setting in SETTINGS])
    options = parser.parse_args()
    settings = [Setting(*map(int, text.split("x"))) for text in options.settings]
    uvloop.run(_compare(options.model, settings, rounds=options.rounds, seconds=options.seconds))


async def _compare(model: str, settings: list[Setting], *, rounds: int, seconds: float) -> None:
    with _servers(model) as servers:
        for server in servers.values():
            await server.ready()
        _print("| client | rows x callers | thread, rows/s | process, rows/s | ratio | front, us | workers, us |")
        _print("|---|---|---|---|---|---|---|")
        for (name, make), setting in itertools.product(CLIENTS.items(), settings):
            measured: dict[str, list[Measurement]] = {kind: [] for kind in KINDS}
            for number in range(rounds):
                for kind in KINDS if number % 2 else reversed(KINDS):
                    measured[kind].append(await servers[kind].measure(make, setting, seconds))
            _print(_line(name, setting, measured))


@contextmanager
def _servers(model: str) -> Iterator[dict[str, Server]]:
    with tempfile.TemporaryDirectory() as folder:
        servers = {kind: Server(kind, model, Path(folder)) for kind in KINDS}
        try:
            yield servers
        finally:
            for server in servers.values():
                server.process.stop()


def _line(client: str, setting: Setting, measured: dict[str, list[Measurement]]) -> str:
    threads, processes = (statistics.median(each.calls.rate for each in measured[kind]) for kind in KINDS)
    pairs = zip(measured["process"], measured["thread"], strict=True)
    ratio = statistics.median(process.calls.rate / thread.calls.rate for process, thread in pairs)
    times = [
        " / ".join(f"{statistics.median(getattr(each, field) for each in measured[kind]):.0f}" for kind in KINDS)
        for field in ("front_us", "workers_us")
    ]
    return f"| {client} | {setting} | {threads:.0f} | {processes:.0f} | {ratio:.2f} | {times[0]} | {times[1]} |"


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the result


def _cpu_s(pid: int) -> float:
    """Return the processor seconds of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()

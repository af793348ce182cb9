"""The rates of `workers = "process"` and `workers = "thread"`: two servers, measured alternately."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contenders import CallerMaker
from load import Sample, sample
from loads import CallerLoad, MixedLoad
from processes import ServerProcess, free_port
from works import BULK, KEYS, WORKS, Setting, Work

from clients import MidribCaller, StubCaller

HERE = Path(__file__).parent
KINDS = ("thread", "process")
CLIENTS: dict[str, CallerMaker] = {"stubs": StubCaller, "client": MidribCaller}
COMPARED = tuple(work for work in WORKS if work.name in ("W1", "W2", "W3", "W5"))
_TICKS = os.sysconf("SC_CLK_TCK")
_CORES = (8, 16)
_HEAD = "| work | client | rows x callers | thread, rows/s | process, rows/s | ratio | p99, ms | bulk, ratio |"
_HEAD += " front, us | workers, us | calls/s on 8 cores | on 16 |"
# A measurement warms up for a fifth of its time, and its calls are not counted.
_WITH_WARM_UP = 1.2


@dataclass(frozen=True)
class Measurement:
    """The calls of one round.

    front_us, workers_us: processor time of a call, of the server's process and of its workers.
    bulk_rate: rows per second of the bulk beside the calls; 0 without one.
    """

    calls: Sample
    front_us: float
    workers_us: float
    bulk_rate: float = 0.0

    def calls_per_second(self, cores: int) -> float:
        """Return the bound of this server on a number of cores: its event loop uses one of them at most."""
        return min(1e6 / self.front_us, cores * 1e6 / (self.front_us + self.workers_us))


class Server:
    """`midrib serve` with one kind of workers, stopped by SIGSTOP while the other one is measured."""

    def __init__(self, kind: str, models: Sequence[str], folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._models = models
        keys = [KEYS[model] for model in models]
        command = [sys.executable, "-m", "midrib.server.cli", "serve", *keys, "--import", "bench_models"]
        options = ["--port", self.address.rpartition(":")[2]]
        environment = {"PYTHONPATH": str(HERE), "MIDRIB_WORKERS": kind, "MIDRIB_DEVICE": "cpu"}
        self.process = ServerProcess([*command, *options], folder / f"{kind}.log", environment=environment)

    async def ready(self) -> None:
        """Wait for the first answer of each model, then stop the process."""
        for model in self._models:
            while not await self._answers(model):
                if not self.process.running:
                    raise RuntimeError(self.process.last_line())
                await asyncio.sleep(0.2)
        self.process.freeze()

    async def measure(self, make: CallerMaker, setting: Setting, seconds: float) -> Measurement:
        """Measure one round; with two models, that of the first beside a bulk of the second."""
        self.process.thaw()
        load = self._load(make)
        try:
            before = self._cpu_s()
            began, ended = await load.run(setting, seconds)
            spent = [1e6 * (after - start) for after, start in zip(self._cpu_s(), before, strict=True)]
        finally:
            self.process.freeze()
        calls = sample(began, ended, setting.rows)
        front_us, workers_us = (each / (len(ended) * _WITH_WARM_UP) for each in spent)
        bulk_rate = sample(*load.bulk_calls, BULK.rows).rate if isinstance(load, MixedLoad) else 0.0
        return Measurement(calls, front_us, workers_us, bulk_rate)

    def _load(self, make: CallerMaker) -> CallerLoad | MixedLoad:
        if len(self._models) == 1:
            return CallerLoad(make, self.address, self._models[0])
        return MixedLoad(make, self.address, tuple(self._models))

    async def _answers(self, model: str) -> bool:
        try:
            await CallerLoad(StubCaller, self.address, model).run(Setting(1, 1), 0.1)
        except Exception:  # noqa: BLE001 - any error means that it is not ready yet
            return False
        return True

    def _cpu_s(self) -> tuple[float, float]:
        front = _cpu_s(self.process.process.pid)
        return front, self.process.cpu_s() - front


async def compare(works: Sequence[Work], *, rounds: int, seconds: float, show: Callable[[str], None]) -> None:
    """Measure workloads with both kinds of workers and both clients, and show a line of a table for each setting."""
    show(_HEAD)
    show("|" + "---|" * (_HEAD.count("|") - 1))
    for models, group in itertools.groupby(works, key=lambda work: work.models):
        with _servers(models) as servers:
            for server in servers.values():
                await server.ready()
            for work, (client, make) in itertools.product(list(group), CLIENTS.items()):
                for setting in work.settings:
                    measured = await _rounds(servers, make, setting, rounds=rounds, seconds=seconds * work.duration)
                    show(f"| {work.name} | {client} | {setting} | {_cells(measured, mixed=len(models) > 1)} |")


async def _rounds(
    servers: dict[str, Server], make: CallerMaker, setting: Setting, *, rounds: int, seconds: float
) -> dict[str, list[Measurement]]:
    """Measure the servers alternately; each round begins with the other one."""
    measured: dict[str, list[Measurement]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 else reversed(KINDS):
            measured[kind].append(await servers[kind].measure(make, setting, seconds))
    return measured


@contextmanager
def _servers(models: Sequence[str]) -> Iterator[dict[str, Server]]:
    with tempfile.TemporaryDirectory() as folder:
        servers = {kind: Server(kind, models, Path(folder)) for kind in KINDS}
        try:
            yield servers
        finally:
            for server in servers.values():
                server.process.stop()


def _cells(measured: dict[str, list[Measurement]], *, mixed: bool) -> str:
    """Return medians; two values are those of threads and of processes. A ratio is of processes by threads."""
    pairs = list(zip(measured["process"], measured["thread"], strict=True))
    ratio = statistics.median(process.calls.rate / thread.calls.rate for process, thread in pairs)
    bulk = statistics.median(process.bulk_rate / thread.bulk_rate for process, thread in pairs) if mixed else None
    cells = [
        *(f"{_median(measured[kind], lambda each: each.calls.rate):.0f}" for kind in KINDS),
        f"{ratio:.2f}",
        _both(measured, lambda each: each.calls.p99_ms, digits=2),
        "" if bulk is None else f"{bulk:.2f}",
        _both(measured, lambda each: each.front_us),
        _both(measured, lambda each: each.workers_us),
        # With a bulk beside them, the processor time is not that of the calls.
        *("" if mixed else f"{_bound(measured['process'], cores):.0f}" for cores in _CORES),
    ]
    return " | ".join(cells)


def _bound(measured: Sequence[Measurement], cores: int) -> float:
    return _median(measured, lambda each: each.calls_per_second(cores))


def _both(measured: dict[str, list[Measurement]], value: Callable[[Measurement], float], *, digits: int = 0) -> str:
    return " / ".join(f"{_median(measured[kind], value):.{digits}f}" for kind in KINDS)


def _median(measured: Sequence[Measurement], value: Callable[[Measurement], float]) -> float:
    return statistics.median(map(value, measured))


def _cpu_s(pid: int) -> float:
    """Return the processor seconds of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

"""Compare the fronts of the server with each other and with the raw grpc.aio echo, measured alternately.

`python benchmarks/fronts/pairs.py` prints, for each load of plain calls, the medians of the rates and of the server's
processor time per call.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import uvloop

SERVING = Path(__file__).resolve().parents[1] / "serving"
sys.path.insert(0, str(SERVING))

from contenders import command, environment  # noqa: E402 - modules of the folder beside this one
from processes import ServerProcess, free_port  # noqa: E402
from works import KEYS, payloads  # noqa: E402

from midrib.server._front.processes.metrics import processor_s  # noqa: E402
from midrib.v1 import embedding_pb2  # noqa: E402
from midrib.wire import encode_tensor  # noqa: E402

# The variables of each server; the echo has no settings.
FRONTS = {
    "grpcio": {"MIDRIB_FRONT": "grpcio"},
    "asyncio": {"MIDRIB_FRONT": "asyncio"},
    "2 fronts": {"MIDRIB_FRONT": "asyncio", "MIDRIB_FRONTS": "2"},
    "3 fronts": {"MIDRIB_FRONT": "asyncio", "MIDRIB_FRONTS": "3"},
    "echo": {},
}
FRONT_PROCESS = "midrib-front"
EMBED = "/midrib.v1.EmbeddingService/Embed"
# The bytes of an answer with one row of the small model.
ECHO = "/echo/unary/1100"
_WARM_UP_S = 0.3


class Load(NamedTuple):
    """Callers that share channels."""

    callers: int
    channels: int

    def __str__(self) -> str:
        return f"{self.callers} callers, {self.channels} channels"


LOADS = (Load(1, 1), Load(16, 1), Load(64, 1), Load(64, 64))


@dataclass(frozen=True)
class Round:
    """One round.

    rate: calls per second.  cpu_us: the server's processor time per call.  front_us: the part of it that its front
    processes use.  p50_ms: of the latency.
    """

    rate: float
    cpu_us: float
    front_us: float
    p50_ms: float


class Server:
    """A server of the small model over one front, or the echo. It is stopped by SIGSTOP while others are measured."""

    def __init__(self, front: str, folder: Path) -> None:
        kind = "echo" if front == "echo" else "midrib"
        port = free_port()
        self._address = f"127.0.0.1:{port}"
        self._path = ECHO if front == "echo" else EMBED
        variables = {**environment(kind), **FRONTS[front]}
        started = command(kind, port, ["mlp"], sys.executable)
        self.process = ServerProcess(started, folder / f"{front}.log", environment=variables)
        self._front_processes: list[int] = []

    async def ready(self) -> None:
        """Wait for the first answer, then stop the process. Raises RuntimeError if it ends."""
        while True:
            try:
                await self._call(Load(1, 1), 0.1)
            except grpc.RpcError:
                if not self.process.running:
                    raise RuntimeError(self.process.last_line()) from None
                await asyncio.sleep(0.2)
            else:
                self.process.refresh()
                self._front_processes = _front_processes(self.process.process.pid)
                self.process.freeze()
                return

    async def measure(self, load: Load, seconds: float) -> Round:
        """Measure one round after a warm-up."""
        self.process.thaw()
        try:
            await self._call(load, _WARM_UP_S)
            before_s, front_before_s = self.process.cpu_s(), self._front_s()
            times = await self._call(load, seconds)
            cpu_s, front_s = self.process.cpu_s() - before_s, self._front_s() - front_before_s
        finally:
            self.process.freeze()
        us = 1e6 / len(times)
        return Round(len(times) / seconds, us * cpu_s, us * front_s, 1e3 * statistics.median(times))

    def _front_s(self) -> float:
        return sum(map(processor_s, self._front_processes))

    async def _call(self, load: Load, seconds: float) -> list[float]:
        """Call without pause; return the seconds of each call."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(self._address, options=options) for _ in range(load.channels)]
        times: list[float] = []
        end = time.monotonic() + seconds
        callers = (_call_until(end, channels[n % load.channels], self._path, times) for n in range(load.callers))
        try:
            await asyncio.gather(*callers)
        finally:
            for channel in channels:
                await channel.close()
        return times


def _front_processes(server: int) -> list[int]:
    """Return the front processes of a server by their ids."""
    started = map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())
    return [pid for pid in started if Path(f"/proc/{pid}/comm").read_text().strip() == FRONT_PROCESS]


async def _call_until(end: float, channel: grpc.aio.Channel, path: str, times: list[float]) -> None:
    call: Any = channel.unary_unary(path)
    number = 0
    while (began := time.monotonic()) < end:
        await call(REQUESTS[number % len(REQUESTS)])
        times.append(time.monotonic() - began)
        number += 1


REQUESTS = [
    embedding_pb2.EmbedRequest(
        backbone=KEYS["mlp"], input=embedding_pb2.Input(tensor=encode_tensor(payload))
    ).SerializeToString()
    for payload in payloads("mlp", 1)
]


def main() -> None:
    """Parse the options, start the servers, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    uvloop.run(_compare(rounds=options.rounds, seconds=options.seconds))


async def _compare(*, rounds: int, seconds: float) -> None:
    with _servers() as servers:
        for server in servers.values():
            await server.ready()
        _print(
            "| load | front | calls/s | of grpcio | of the echo | server, us a call | its fronts, us a call | p50, ms |"
        )
        _print("|---|---|---|---|---|---|---|---|")
        for load in LOADS:
            measured: dict[str, list[Round]] = {front: [] for front in FRONTS}
            for number in range(rounds):
                for front in list(FRONTS) if number % 2 else reversed(FRONTS):
                    measured[front].append(await servers[front].measure(load, seconds))
            for front in FRONTS:
                _print(_line(load, front, measured))


@contextmanager
def _servers() -> Iterator[dict[str, Server]]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers: dict[str, Server] = {}
        for front in FRONTS:
            servers[front] = Server(front, Path(folder))
            stack.callback(servers[front].process.stop)
        yield servers


def _line(load: Load, front: str, measured: dict[str, list[Round]]) -> str:
    rounds = measured[front]
    rate, cpu_us, front_us, p50_ms = (
        statistics.median(getattr(each, name) for each in rounds) for name in ("rate", "cpu_us", "front_us", "p50_ms")
    )
    of_grpcio, of_echo = (
        statistics.median(each.rate / other.rate for each, other in zip(rounds, measured[name], strict=True))
        for name in ("grpcio", "echo")
    )
    times = f"{cpu_us:.0f} | {front_us:.0f} | {p50_ms:.2f}"
    return f"| {load} | {front} | {rate:.0f} | {of_grpcio:.2f} | {of_echo:.2f} | {times} |"


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    main()

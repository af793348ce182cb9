"""Shared memory against the network on one machine: `python benchmarks/remote/shared_memory.py` writes the table.

One caller calls repeatedly. The contenders are measured alternately, three calls each in a round, in random order.
The echo is a gRPC stream (grpc.aio on uvloop at both ends) of the same bytes in each direction; it computes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import cheap_models  # noqa: F401 - registers a backbone
import grpc
import numpy as np
import torch
import uvloop
from compare import MLP
from echo import METHOD, echo_server
from processes import SERVING

from midrib.backbones import BACKBONES
from midrib.remote import Client
from midrib.server._command.server_process import server_process

HERE: Final = Path(__file__).parent
POOL: Final = "benchmark/embedding/pool"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Load(NamedTuple):
    """Calls of one size. width: features of a row."""

    title: str
    backbone: str
    shape: tuple[int, ...]
    width: int


LOADS: Final = (
    Load("16 images of 3x224x224", POOL, (16, 3, 224, 224), 147),
    Load("64 images of 3x224x224", POOL, (64, 3, 224, 224), 147),
    Load("1 image of 3x224x224", POOL, (1, 3, 224, 224), 147),
    Load("64 rows of 784", MLP, (64, 784), 256),
    Load("1 row of 784", MLP, (1, 784), 256),
)


class Contender(NamedTuple):
    """A call, and the processes whose time it takes."""

    call: Callable[[], object]
    processes: tuple[int, ...]


class Echo:
    """One stream to an echo, on its own event loop, as a client has one."""

    def __init__(self, address: str) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call: Any = self._run(self._open(address))

    def exchange(self, head: bytes, rows: np.ndarray) -> None:
        """Send the rows, and receive as many bytes as the head names."""
        self._run(self._exchange(b"".join([head, rows.reshape(-1).view(np.uint8).data[8:]])))

    async def _open(self, address: str) -> Any:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        return self._channel.stream_stream(METHOD)()

    async def _exchange(self, message: bytes) -> None:
        await self._call.write(message)
        await self._call.read()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextmanager
def served() -> Iterator[tuple[str, int]]:
    """Yield the address and the process of `midrib serve`, with its defaults."""
    path = os.pathsep.join(filter(None, [str(SERVING), str(HERE), os.environ.get("PYTHONPATH")]))
    imports = "--import", "bench_models", "--import", "cheap_models"
    with server_process(MLP, POOL, *imports, PYTHONPATH=path) as (url, process):
        yield url.removesuffix(f"/{MLP}"), process.pid


def cpu_s(processes: tuple[int, ...]) -> float:
    """Return the processor time of processes so far."""
    fields = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS


def measure(contenders: Mapping[str, Contender], rounds: int) -> dict[str, tuple[list[float], float]]:
    """Return the seconds of each contender's calls, and the processor time of one call."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    cpu = dict.fromkeys(contenders, 0.0)
    for name in [name for name in contenders for _ in range(3)]:
        contenders[name].call()
    for _ in range(rounds):
        for name in random.sample(list(contenders), len(contenders)):
            call, processes = contenders[name]
            before, began = cpu_s(processes), time.perf_counter()
            for _ in range(3):
                call()
            times[name].append((time.perf_counter() - began) / 3)
            cpu[name] += cpu_s(processes) - before
    return {name: (times[name], cpu[name] / rounds / 3) for name in contenders}


def table(address: str, server: int, rounds: int) -> Iterator[str]:
    """Yield the lines of the table."""
    ratios = "rate: shared / network | shared / echo | shared / in process"
    yield f"| call | shared memory | network | raw echo | in process | {ratios} | CPU |"
    yield "|" + "---|" * 9
    for load in LOADS:
        with ExitStack() as opened:
            echo_address = opened.enter_context(echo_server())
            shared = opened.enter_context(Client(address, shared_memory=True))
            network = opened.enter_context(Client(address, shared_memory=False))
            rows = np.random.default_rng(0).random(load.shape, np.float32)
            yield _line(load, measure(_contenders(load, rows, (shared, network), Echo(echo_address), server), rounds))


def _contenders(
    load: Load, rows: np.ndarray, clients: tuple[Client, Client], echo: Echo, server: int
) -> dict[str, Contender]:
    shared, network = clients
    head = (load.shape[0] * load.width * 4).to_bytes(8, "little")
    module, _ = BACKBONES.get(load.backbone)()
    module.eval()
    tensor, both = torch.from_numpy(rows), (os.getpid(), server)

    def local() -> None:
        with torch.inference_mode():
            module(tensor)

    return {
        "shared": Contender(lambda: shared.embed(load.backbone, rows), both),
        "network": Contender(lambda: network.embed(load.backbone, rows), both),
        "echo": Contender(lambda: echo.exchange(head, rows), (os.getpid(),)),
        "local": Contender(local, (os.getpid(),)),
    }


def _line(load: Load, measured: Mapping[str, tuple[list[float], float]]) -> str:
    cells = [f"{1e3 * statistics.median(measured[name][0]):.2f} ms" for name in ("shared", "network", "echo", "local")]
    ratios = [_ratio(measured, base) for base in ("network", "echo", "local")]
    cpu = measured["shared"][1] / max(measured["network"][1], 1e-9)
    return f"| {load.title} | {' | '.join(cells)} | {' | '.join(ratios)} | {cpu:.2f} |"


def _ratio(measured: Mapping[str, tuple[list[float], float]], base: str) -> str:
    pairs = zip(measured[base][0], measured["shared"][0], strict=True)
    return f"{statistics.median(slow / fast for slow, fast in pairs):.2f}"


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="25 take about four minutes on two cores")
    parser.add_argument("--out", type=Path, default=HERE / "shared_memory.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with served() as (address, server):
        lines = list(table(address, server, options.rounds))
    options.out.write_text("\n".join([*_head(options.rounds, load), *lines]) + "\n")


def _head(rounds: int, load: float) -> list[str]:
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    return [
        "# Shared memory against the network on one machine\n",
        f"{machine}, torch {torch.__version__}.",
        "One caller in one process, the server (`midrib serve`, its defaults) in another one, on the same cores.",
        f"Medians of {rounds} rounds of three calls each. The contenders of a round run in random order. A ratio is",
        "the median of the ratios within rounds. The echo is a gRPC stream of the same bytes in each direction, which",
        "computes nothing. `CPU` is the processor time of client and server together through shared memory, divided by",
        f"that over the network. Load of the machine before it (1 minute): {load:.1f}.",
        "Command: `python benchmarks/remote/shared_memory.py`.\n",
    ]


if __name__ == "__main__":
    main()

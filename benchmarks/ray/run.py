"""Ray Serve against the same servers without Ray: `dist/ray-venv/bin/python benchmarks/ray/run.py`, four minutes.

build-support/ray makes that environment. Two servers with one thread each, for ViT-Tiny and MiniLM: `midrib serve`,
whose addresses the client knows, and the replicas of `midrib ray up` behind HAProxy. The client is `midrib bench`, on
the same cores. Rounds of both are interleaved, because the speed of a shared machine drifts. The rates need a quiet
machine. The processor time per row is that of the servers or replicas, and of HAProxy. Ray's other processes use
processor time also while no call comes, so they are listed apart, as cores.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

SERVING = Path(__file__).parents[1] / "serving"  # its models
MIDRIB = [sys.executable, "-m", "midrib.server.cli"]
BACKBONES = ("benchmark/embedding/vit-tiny", "text/embedding/all-minilm-l6-v2")
SETTINGS = {"imports": ["bench_models"], "threads": 1, "workers": "thread", "backbones": list(BACKBONES)}
# On a busy machine Ray would take its own processes for dead before they have started.
LONG_CHECKS = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}
# Behind one address each connection has one stream, and a stream stays at its replica.
CONNECTIONS = "?connections=6"


# The command lines of the processes that a call passes have one of these.
ON_THE_WAY = ("midrib.server.cli serve", "ray::ServeReplica", "haproxy -db")


class Measured(NamedTuple):
    """The rows per second, the milliseconds of processor time per row of the processes that a call passes.

    other_cores: that the other processes of the servers use, which are Ray's.
    """

    rows_per_s: float
    cpu_ms: float
    other_cores: float


class Used(NamedTuple):
    """Processor time in seconds, of the processes that a call passes and of the others."""

    on_the_way_s: float
    other_s: float


@dataclass(frozen=True)
class Target:
    """Servers, by their addresses and the sessions of their processes."""

    addresses: str
    sessions: tuple[int, ...]
    query: str = ""

    def measure(self, name: str, seconds: float) -> Measured:
        """Measure 16 callers of 8 rows each."""
        url = f"grpc://{self.addresses}/{name}{self.query}"
        command = [*MIDRIB, "bench", url, "--rows", "8", "--concurrency", "16", "--seconds", str(seconds), "--json"]
        began_s, before = time.monotonic(), used(self.sessions)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment())  # noqa: S603
        took_s, after = time.monotonic() - began_s, used(self.sessions)
        rate = float(json.loads(done.stdout)["measured"][0]["rows_per_s"])
        cpu_ms = 1000 * (after.on_the_way_s - before.on_the_way_s) / (rate * seconds)
        return Measured(rate, cpu_ms, (after.other_s - before.other_s) / took_s)


def measure(rounds: int, seconds: float) -> Iterator[str]:
    """Yield the lines of the table."""
    with ExitStack() as stack:
        servers = [stack.enter_context(running("serve", free_port())) for _ in range(2)]
        plain = Target(",".join(address for address, _ in servers), tuple(session for _, session in servers))
        replicas = ["--min-replicas", "2", "--max-replicas", "2", "--cpus", "1", "--http-port", str(free_port())]
        address, session = stack.enter_context(running("ray up", free_port(), "--insecure", *replicas))
        ray = Target(address, (session,), CONNECTIONS)
        yield "| backbone | servers, rows/s | Ray Serve | ratio | CPU ms per row | Ray Serve | ratio | others, cores |"
        yield "|---|---|---|---|---|---|---|---|"
        for name in BACKBONES:
            pairs = [(plain.measure(name, seconds), ray.measure(name, seconds)) for _ in range(rounds)]
            yield row(name, pairs)


def row(name: str, pairs: list[tuple[Measured, Measured]]) -> str:
    """Return a line of the table: the medians of both sides, and of the pairs' ratios."""
    plain, ray = (
        [statistics.median(values) for values in zip(*side, strict=True)] for side in zip(*pairs, strict=True)
    )
    rate = statistics.median(second.rows_per_s / first.rows_per_s for first, second in pairs)
    cpu = statistics.median(first.cpu_ms / second.cpu_ms for first, second in pairs)
    rates = f"{plain[0]:,.0f} | {ray[0]:,.0f} | {rate:.3f}"
    return f"| {name} | {rates} | {plain[1]:.2f} | {ray[1]:.2f} | {cpu:.3f} | {ray[2]:.2f} |"


def used(sessions: Container[int]) -> Used:
    """Return the processor time of all processes of these sessions."""
    ticks = {True: 0, False: 0}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            title = path.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) in sessions:
            ticks[any(words in title for words in ON_THE_WAY)] += int(fields[11]) + int(fields[12])
    hertz = os.sysconf("SC_CLK_TCK")
    return Used(ticks[True] / hertz, ticks[False] / hertz)


@contextmanager
def running(command: str, port: int, *options: str) -> Iterator[tuple[str, int]]:
    """Yield the address and the session of a server, or of replicas on Ray, that end with the block."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(tomli_w.dumps({**SETTINGS, "port": port}))
        file.flush()
        config = ["--config", file.name] if command == "serve" else [file.name]
        program = [*MIDRIB, *command.split(), *config, "--json", *options]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "start_new_session": True}
        with subprocess.Popen(program, env=environment(), **pipes) as process:  # noqa: S603
            try:
                for line in process.stdout or ():
                    if b'"ready"' in line:
                        yield f"127.0.0.1:{port}", process.pid
                        return
                raise RuntimeError(f"`{' '.join(program)}` ended before it was ready: see its errors above")
            finally:
                process.terminate()


def environment() -> dict[str, str]:
    """Return the variables of a process: one thread for each, and the models of benchmarks/serving."""
    path = os.pathsep.join([str(SERVING), *(folder for folder in sys.path if folder)])
    return {**os.environ, **LONG_CHECKS, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    for line in measure(options.rounds, options.seconds):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Ray Serve against the same servers without Ray: `dist/ray-venv/bin/python benchmarks/ray/run.py`, three minutes.

build-support/ray makes that environment. Two servers with one thread each, for ViT-Tiny and MiniLM: `midrib serve`,
whose addresses the client knows, and the replicas of `midrib ray up` behind HAProxy. The client is `midrib bench`, on
the same cores. Rounds of both are interleaved, because the speed of a shared machine drifts.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tomli_w

SERVING = Path(__file__).parents[1] / "serving"  # its models
MIDRIB = [sys.executable, "-m", "midrib.server.cli"]
BACKBONES = ("benchmark/embedding/vit-tiny", "text/embedding/all-minilm-l6-v2")
SETTINGS = {"imports": ["bench_models"], "threads": 1, "workers": "thread", "backbones": list(BACKBONES)}
# On a busy machine Ray would take its own processes for dead before they have started.
LONG_CHECKS = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}
# Behind one address each connection has one stream, and a stream stays at its replica.
CONNECTIONS = "?connections=6"


def measure(rounds: int, seconds: float) -> Iterator[str]:
    """Yield the lines of the table."""
    with ExitStack() as stack:
        plain = [stack.enter_context(running("serve", free_port())) for _ in range(2)]
        replicas = ["--min-replicas", "2", "--max-replicas", "2", "--cpus", "1", "--http-port", str(free_port())]
        ray = stack.enter_context(running("ray up", free_port(), "--insecure", *replicas))
        yield "| backbone | two servers, rows/s | Ray Serve, rows/s | ratio of pairs, median |"
        yield "|---|---|---|---|"
        for name in BACKBONES:
            pairs = [
                (rate(",".join(plain), name, seconds), rate(ray, name + CONNECTIONS, seconds)) for _ in range(rounds)
            ]
            servers, served = (statistics.median(rates) for rates in zip(*pairs, strict=True))
            ratio = statistics.median(second / first for first, second in pairs)
            yield f"| {name} | {servers:,.0f} | {served:,.0f} | {ratio:.3f} |"


def rate(addresses: str, name: str, seconds: float) -> float:
    """Return the rows per second of 16 callers of 8 rows each."""
    url = f"grpc://{addresses}/{name}"
    command = [*MIDRIB, "bench", url, "--rows", "8", "--concurrency", "16", "--seconds", str(seconds), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment())  # noqa: S603
    return float(json.loads(done.stdout)["measured"][0]["rows_per_s"])


@contextmanager
def running(command: str, port: int, *options: str) -> Iterator[str]:
    """Yield the address of a server, or of replicas on Ray, that end with the block."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(tomli_w.dumps({**SETTINGS, "port": port}))
        file.flush()
        config = ["--config", file.name] if command == "serve" else [file.name]
        program = [*MIDRIB, *command.split(), *config, "--json", *options]
        with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment()) as process:  # noqa: S603
            try:
                for line in process.stdout or ():
                    if b'"ready"' in line:
                        yield f"127.0.0.1:{port}"
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    for line in measure(options.rounds, options.seconds):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

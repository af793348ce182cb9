"""The memory of a second CPU replica, whose worker shares the weights of the first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
_LARGE = "benchmark/embedding/large"


def second_replica_share() -> float:
    """Return the memory that a second replica of 512 MiB of weights adds, by that of the first replica's worker."""
    first, both = (_workers_bytes(replicas) for replicas in (1, 2))
    return (both - first) / first


def _workers_bytes(replicas: int) -> int:
    """Return the proportional memory of the workers of a server: memory that processes share counts once."""
    command = [sys.executable, "-m", "midrib.server.cli", "serve", _LARGE, "--import", "bench_models", "--port", "0"]
    environment = {"PYTHONPATH": str(HERE), "MIDRIB_WORKERS": "process", "MIDRIB_DEVICE": "cpu"}
    environment |= {"MIDRIB_REPLICAS": str(replicas)}
    with subprocess.Popen(
        [*command, "--json"],  # noqa: S603 - ours
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        lines = iter(process.stdout or ())
        _loading, _ready = (json.loads(next(lines)) for _ in range(2))
        workers = _descendants(process.pid, "midrib-worker")
        size = sum(map(_pss_bytes, workers))
        process.send_signal(signal.SIGTERM)
        process.communicate()
    return size


def _descendants(pid: int, name: str) -> list[int]:
    """Return the descendants of a process that have a name, as `ps` shows it."""
    children = [int(child) for tasks in Path(f"/proc/{pid}/task").iterdir() for child in _children(tasks)]
    named = [child for child in children if Path(f"/proc/{child}/comm").read_text().strip() == name]
    return [*named, *(each for child in children for each in _descendants(child, name))]


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

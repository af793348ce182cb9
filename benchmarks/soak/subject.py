"""A server process to watch, and the backbones that it serves.

Run as a script, this module is that process: it serves, prints its address, and ends when its stdin ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.server.testing import serving

REGISTRY = Registry("soak")
SERVICE_S = 0.02
QUEUE = 25
WIDTH = 1024


class Double(nn.Module):
    """Doubles its rows."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows * 2


class Slow(nn.Module):
    """Doubles the first two values of a row, in the same time on every machine."""

    def forward(self, rows: Tensor) -> Tensor:
        time.sleep(SERVICE_S)
        return rows[:, :2] * 2


@REGISTRY(name="double", namespace="soak", input=TensorInput((2,)))
def load_double() -> tuple[nn.Module, int]:
    """Load a backbone that is always served."""
    return Double(), 2


@REGISTRY(name="guest", namespace="soak", input=TensorInput((2,)))
def load_guest(num_features: int = 64) -> tuple[nn.Module, int]:
    """Load a backbone that clients load and unload."""
    return nn.Linear(2, num_features), num_features


@REGISTRY(name="slow", namespace="soak", input=TensorInput((WIDTH,)))
def load_slow() -> tuple[nn.Module, int]:
    """Load a backbone that computes one row at a time."""
    return Slow(), 2


@dataclass(frozen=True)
class Sample:
    """The memory, file descriptors and threads of the server process at one moment."""

    rss_mib: float
    fds: int
    threads: int


class Subject:
    """A running server process."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address

    def sample(self) -> Sample:
        """Return the current sample, from /proc."""
        folder = Path(f"/proc/{self.process.pid}")
        lines = (folder / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return Sample(
            rss_mib=int(status["VmRSS"].split()[0]) / 1024,
            fds=len(list((folder / "fd").iterdir())),
            threads=int(status["Threads"]),
        )


@contextmanager
def running(kind: str) -> Iterator[Subject]:
    """Start a server process for "soak" or "overload"; it ends on exit."""
    command, pipe = [sys.executable, __file__, kind], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603 - this module
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the server's pipes are missing")
        yield Subject(process, process.stdout.readline().strip())
        process.stdin.close()


def main() -> None:
    """Serve until stdin ends."""
    if sys.argv[1] == "overload":
        serve = serving("slow", registry=REGISTRY, max_batch_rows=1, max_queue_items=QUEUE)
    else:
        serve = serving("double", registry=REGISTRY, admin=True)
    with serve as server:
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()

"""The processes of the trials, and the servers among them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final, Self

ROOT = Path(__file__).resolve().parents[2]
SERVING = ROOT / "benchmarks" / "serving"
MLP: Final = "benchmark/embedding/mlp"


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process(ABC):
    """A process that is started and stopped, perhaps several times."""

    address: str

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start it, and wait until it accepts connections."""

    def stop(self) -> None:
        """End it by SIGTERM, if it runs, and wait for the end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


class Server(Process):
    """`midrib serve` with the MLP, on a fixed port. settings: more of its settings."""

    def __init__(self, port: int, **settings: float) -> None:
        super().__init__()
        self.address = f"127.0.0.1:{port}"
        self._variables = {f"MIDRIB_{name.upper()}": str(value) for name, value in settings.items()}

    def start(self) -> None:
        """Start it, and wait until the MLP is ready."""
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "midrib.server.cli", "serve", MLP, "--import", "bench_models"]
        path = os.pathsep.join(filter(None, [str(SERVING), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [*command, "--port", port, "--json"],  # noqa: S603 - this project's own server
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self._variables, "PYTHONPATH": path},
        )
        if self._process.stdout is None:
            raise RuntimeError("the server has no output to read")
        for _ in range(2):
            json.loads(self._process.stdout.readline())

    def cpu_s(self) -> float:
        """Return the seconds of CPU that the process has used (Linux)."""
        fields = Path(f"/proc/{self._running.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pause(self) -> None:
        """Stop the process until `resume`; its connections stay open."""
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._running.send_signal(signal.SIGCONT)

    @property
    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError(f"the server at {self.address} was not started")
        return self._process

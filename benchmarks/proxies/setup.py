"""The servers and the proxies of the trials, each a process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

ROOT = Path(__file__).resolve().parents[2]
SERVING = ROOT / "benchmarks" / "serving"
MLP: Final = "benchmark/embedding/mlp"
PROXIES: Final = ("nginx", "haproxy")
NGINX: Final = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{
}}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{snippet}
}}
"""
# The settings that differ from a proxy's defaults. HAProxy has no default time-outs: Debian's are these.
_SETTINGS: Final = re.compile(
    r"^ *(client_max_body_size|client_body_timeout|grpc_\w+_timeout|option redispatch).*\n", re.M
)
_DEBIANS: Final = {"timeout client 1h": "timeout client 50s", "timeout server 1h": "timeout server 50s"}


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def version(name: str) -> str:
    """Return a proxy's name and version."""
    flag = "-v"
    done = subprocess.run([name, flag], capture_output=True, text=True, check=True)  # noqa: S603
    number = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return f"{name} {number.group() if number else '?'}"


class _Process(ABC):
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


class Server(_Process):
    """`midrib serve` with the MLP, on a fixed port."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.address = f"127.0.0.1:{port}"

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
            env={**os.environ, "PYTHONPATH": path},
        )
        if self._process.stdout is None:
            raise RuntimeError("the server has no output to read")
        for _ in range(2):
            json.loads(self._process.stdout.readline())


class Proxy(_Process):
    """nginx or HAProxy, with the snippet of docs/scale.md. settings: "snippet", or "defaults" without its settings."""

    def __init__(self, name: str, servers: list[str], settings: str, folder: Path) -> None:
        super().__init__()
        self.address = f"127.0.0.1:{free_port()}"
        snippet = _snippet(name)
        if settings == "defaults":
            snippet = _SETTINGS.sub("", snippet)
            for setting, default in _DEBIANS.items():
                snippet = snippet.replace(setting, default)
        for index, server in enumerate(servers, 1):
            snippet = snippet.replace(f"gpu-{index}:50051", server)
        snippet = snippet.replace("listen 50051", f"listen {self.address}").replace(
            "bind :50051", f"bind {self.address}"
        )
        text = NGINX.format(folder=folder, snippet=snippet) if name == "nginx" else snippet
        file = folder / f"{name}-{settings}.conf"
        file.write_text(text)
        self._command = [name, "-c", str(file)] if name == "nginx" else [name, "-f", str(file)]

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self._process = subprocess.Popen(self._command, text=True, stderr=subprocess.DEVNULL)  # noqa: S603
        host, _, port = self.address.rpartition(":")
        while True:
            with suppress(OSError), socket.create_connection((host, int(port))):
                return
            time.sleep(0.05)


def _snippet(name: str) -> str:
    match = re.search(rf"```{name}\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.S)
    if match is None:
        raise ValueError(f"docs/scale.md has no block ```{name}")
    return match.group(1)

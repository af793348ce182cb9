"""`midrib ray up` as a process, and the processes of its replicas."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tomli_w

from libs.ray.tests.ray_program import RayProgram, title_of

MIDRIB = [sys.executable, "-m", "midrib.server.cli"]
RAY_PORTS = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)
# On a busy machine Ray would take its own processes for dead before they have started.
_LONG_CHECKS = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}


class ServeProcess:
    """A Ray on this machine with our server on it, on free ports.

    folder: for its configuration and its log.  arguments: of the backbone.  options: of `midrib ray up`.
    """

    def __init__(self, folder: Path, arguments: dict[str, float], options: Sequence[str], **settings: object) -> None:
        port, http_port, *ports = free_ports(2 + len(RAY_PORTS))
        self.address = f"127.0.0.1:{port}"
        self._settings = {"port": port, **settings}
        self._folder = folder
        self._configure(arguments)
        command = [*MIDRIB, "ray", "up", str(folder / "midrib.toml"), "--insecure", "--json", *options]
        self._program = RayProgram([*command, "--http-port", str(http_port)], folder / "log", ray_environment(ports))

    def _configure(self, arguments: dict[str, float]) -> None:
        write_settings(self._folder, arguments, **self._settings)

    def wait_until_ready(self) -> None:
        """Return once clients are answered. Raises RuntimeError, with the log, if the command ends before."""
        self._program.event("ready")

    def replace(self, arguments: dict[str, float]) -> None:
        """Serve the backbone with other arguments; return once the new replicas answer."""
        self._configure(arguments)
        self._program.process.send_signal(signal.SIGHUP)
        self.wait_until_ready()

    def replace_by_failing(self, arguments: dict[str, float]) -> str:
        """Serve the backbone with arguments that it refuses; return the command's error. Raises TimeoutError."""
        self._configure(arguments)
        self._program.process.send_signal(signal.SIGHUP)
        log, error = self._folder / "log", "midrib: the changed file is not served"
        self.until(lambda _replicas: error in log.read_text())
        return next(line for line in log.read_text().splitlines() if error in line)

    def replicas(self) -> list[int]:
        """Return the process ids of the replicas."""
        return self._program.members("ray::ServeReplica:midrib")

    def controllers(self) -> list[int]:
        """Return the process id of the controller of Serve, while there is one."""
        return self._program.members("ray::ServeController")

    def ingresses(self) -> list[int]:
        """Return the process ids of HAProxy, oldest first: an old one ends after its connections."""
        return sorted(pid for pid in self._program.members() if "/haproxy -db" in title_of(pid))

    def until(self, condition: Callable[[list[int]], bool], *, seconds: float = 120.0) -> list[int]:
        """Return the replicas once they satisfy a condition. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not condition(replicas := self.replicas()):
            if time.monotonic() > end:
                raise TimeoutError(f"after {seconds:g} s the replicas are {replicas}")
            time.sleep(0.25)
        return replicas

    def stop(self) -> None:
        """End the command, and with it Ray. All processes that it started are gone afterwards."""
        self._program.stop()


def write_settings(folder: Path, arguments: dict[str, float], **settings: object) -> Path:
    """Write a settings file with the small backbone, and return its path."""
    backbone = {"name": "test/embedding/times", "arguments": arguments}
    fields = {"imports": ["serve_backbone"], "warm_up_s": 0.0, **settings, "backbones": [backbone]}
    path = folder / "midrib.toml"
    path.write_text(tomli_w.dumps(fields))
    return path


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on. The system gives none of them to connections of the processes of Ray."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return ports


def ray_environment(ports: Sequence[int]) -> dict[str, str]:
    """Return the variables of a Ray.  ports: of HAProxy and of Ray's proxies, besides the two of `midrib ray up`."""
    folders = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    variables = dict(zip(RAY_PORTS, map(str, ports), strict=True))
    return {**os.environ, **variables, **_LONG_CHECKS, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}

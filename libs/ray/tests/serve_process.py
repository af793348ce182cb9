"""`midrib ray up` as a process, and the processes of its replicas."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tomli_w

MIDRIB = [sys.executable, "-m", "midrib.server.cli"]
_PORTS = (
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
        port, http_port, *ports = free_ports(2 + len(_PORTS))
        self.address = f"127.0.0.1:{port}"
        self._settings = {"imports": ["serve_backbone"], "port": port, "warm_up_s": 0.0, **settings}
        self._folder = folder
        command = [*MIDRIB, "ray", "up", str(folder / "midrib.toml"), "--insecure", "--json", *options]
        self._log = (folder / "log").open("w")
        self._configure(arguments)
        self._process = subprocess.Popen(
            [*command, "--http-port", str(http_port)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(ports),
            text=True,
            start_new_session=True,
        )

    def _configure(self, arguments: dict[str, float]) -> None:
        backbone = {"name": "test/embedding/times", "arguments": arguments}
        (self._folder / "midrib.toml").write_text(tomli_w.dumps({**self._settings, "backbones": [backbone]}))

    def wait_until_ready(self) -> None:
        """Return once clients are answered. Raises RuntimeError, with the log, if the command ends before."""
        for line in self._process.stdout or ():
            if line.startswith('{"event": "ready"'):
                return
        raise RuntimeError(f"`midrib ray up` ended: {(self._folder / 'log').read_text()[-4000:]}")

    def replace(self, arguments: dict[str, float]) -> None:
        """Serve the backbone with other arguments; return once the new replicas answer."""
        self._configure(arguments)
        self._process.send_signal(signal.SIGHUP)
        self.wait_until_ready()

    def replicas(self) -> list[int]:
        """Return the process ids of the replicas."""
        return self._pids("ray::ServeReplica:midrib")

    def controllers(self) -> list[int]:
        """Return the process id of the controller of Serve, while there is one."""
        return self._pids("ray::ServeController")

    def ingresses(self) -> list[int]:
        """Return the process ids of HAProxy, oldest first: an old one ends after its connections."""
        return sorted(pid for pid in self._pids("") if "/haproxy -db" in _title(pid))

    def _pids(self, title: str) -> list[int]:
        return [pid for pid in _members(self._process.pid) if _title(pid).startswith(title)]

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
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(90)
        finally:
            for pid in _members(self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.communicate()
            self._log.close()


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def _environment(ports: Sequence[int]) -> dict[str, str]:
    """Return the variables of the command.  ports: of HAProxy and of Ray's proxies, besides the two of the command."""
    folders = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    variables = dict(zip(_PORTS, map(str, ports), strict=True))
    return {**os.environ, **variables, **_LONG_CHECKS, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}


def _members(session: int) -> list[int]:
    """Return the processes of a session: one that was started as its first, and all that those have started."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(path.parent.name))
    return members


def _title(pid: int) -> str:
    """Return the command line of a process; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""

"""A server as a separate process tree: start it, watch it in /proc, stop it while others are measured, end it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_GRACE_S: Final = 15.0
_PROC: Final = Path("/proc")


class ServerProcess:
    """A command in a new session; its output goes to a file.

    environment: variables in addition to those of this process.  pipes: connect stdin and stdout to pipes instead.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str],
        pipes: bool = False,
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command,  # noqa: S603 - a command of this benchmark
                env={**os.environ, **environment},
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                start_new_session=True,
            )
        self._tree = [self.process.pid]

    @property
    def running(self) -> bool:
        """Whether the first process of the tree lives."""
        return self.process.poll() is None

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Its stdin and stdout. Raises RuntimeError if it was started without pipes."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("this server was started without pipes")
        return self.process.stdin, self.process.stdout

    def refresh(self) -> None:
        """Read the processes of the tree. It reads all of /proc, which is too slow while measuring."""
        self._tree = _tree(self.process.pid)

    def cpu_s(self) -> float:
        """Return the processor seconds of the tree so far, including children that have ended."""
        return sum(sum(map(int, stat[13:17])) for stat in map(_stat, self._tree) if stat) / _TICKS

    def memory_bytes(self, *, peak: bool) -> int:
        """Return the resident memory of the tree, now or at the peak of each process; shared pages count in each."""
        field = "VmHWM:" if peak else "VmRSS:"
        return sum(_status_bytes(pid, field) for pid in self._tree)

    def repeated_bytes(self) -> int:
        """Return the bytes that `memory_bytes` counts more than once: memory that processes of the tree share."""
        shared = [_status_bytes(pid, "RssShmem:") for pid in self._tree]
        return sum(shared) - max(shared, default=0)

    def forget_peak(self) -> None:
        """Reset the peak to the memory that is resident now."""
        for pid in self._tree:
            with contextlib.suppress(OSError):
                (_PROC / str(pid) / "clear_refs").write_text("5")

    def freeze(self) -> None:
        """Stop every process of the tree: an idle server must not slow the measured one."""
        self.refresh()
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the tree run again."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Send SIGTERM, and after a grace SIGKILL to the processes that are left."""
        self.thaw()
        self.refresh()
        tree = {pid: _started(pid) for pid in self._tree}
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE_S)
        for pid, started in tree.items():
            if started is not None and _started(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def last_line(self) -> str:
        """Return the last line of its log that contains an error, or the last line."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        return (errors or lines or ["its log is empty"])[-1]

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def import_seconds(python: str, module: str) -> float:
    """Return the seconds in which a new interpreter starts and imports a module."""
    began = time.monotonic()
    subprocess.run([python, "-c", f"import {module}"], check=True)  # noqa: S603 - this interpreter
    return time.monotonic() - began


def _tree(root: int) -> list[int]:
    """Return the ids of a process, its descendants, and the other processes of its session."""
    stats = {int(entry.name): _stat(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdecimal()}
    tree = {pid for pid, stat in stats.items() if stat and (pid == root or int(stat[5]) == root)}
    while True:
        more = {pid for pid, stat in stats.items() if stat and int(stat[3]) in tree} - tree
        if not more:
            return sorted(tree)
        tree |= more


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat; index 0 is field 1 of its manual. None if the process has ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    name_end = text.rindex(")")  # a process's name may hold spaces
    return ["", "", *text[name_end + 2 :].split()]


def _started(pid: int) -> str | None:
    stat = _stat(pid)
    return stat[21] if stat else None


def _status_bytes(pid: int, field: str) -> int:
    try:
        text = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0

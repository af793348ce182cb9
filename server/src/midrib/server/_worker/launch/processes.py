"""A worker process as the server sees it, and the start of one as a new interpreter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, cast

from midrib.server._child_process import command, import_path
from midrib.server._worker import bootstrap, priority

T = TypeVar("T")

# The variable by which the processes of a worker are recognised.
_MARK = "MIDRIB_WORKER"
# A process may start another one while the list of processes is read.
_MAX_PASSES = 5


@dataclass(frozen=True)
class Program:
    """The program of a worker.

    entry: "module:function".  buffers: descriptors for `bootstrap.main`.
    descriptors: other files, which the process has under the same numbers.
    """

    entry: str
    buffers: tuple[int, ...]
    descriptors: tuple[int, ...] = ()

    @property
    def module(self) -> str:
        """The module of its entry."""
        return self.entry.partition(":")[0]

    def all_descriptors(self, channel: int) -> list[int]:
        """Return the descriptors of all files that it needs."""
        return [channel, *self.buffers, *self.descriptors]

    def arguments(self, channel: int) -> dict[str, Any]:
        """Return the arguments of `bootstrap.main`, made of JSON's types, without `parent`."""
        return {
            "path": import_path(),
            "entry": self.entry,
            "channel": channel,
            "buffers": list(self.buffers),
            "low_priority": priority.can_lower(),
        }


class LaunchedProcess(Protocol):
    """A running worker, the leader of a process group. pid: its id.  output: the pipe of its stdout and stderr."""

    pid: int
    output: IO[bytes]

    def has_ended(self) -> bool:
        """Return whether it has ended. Its id is not used for another process before `end` is called."""
        ...

    def end(self) -> int | None:
        """Kill it and the processes of its group; return its status, negative for a signal, None if unknown.

        Any thread may call it, more than once.
        """
        ...


class SpawnedProcess:
    """A process that was started as an interpreter. Implements `LaunchedProcess`.

    channel: the descriptor of its end of the channel.
    """

    def __init__(self, program: Program, channel: int) -> None:
        self._mark = f"{_MARK}={os.urandom(16).hex()}"
        self._process = in_lasting_thread(partial(_spawn, program, channel, self._mark))
        self._ending = threading.Lock()
        self.pid = self._process.pid
        self.output = cast(IO[bytes], self._process.stdout)

    def has_ended(self) -> bool:
        """Return whether it has ended, without reaping it."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # reaped
            return True

    def end(self) -> int | None:
        """Kill the process's group before it is reaped, because afterwards another process may have its number."""
        with self._ending:
            if self._process.returncode is None:
                priority.raise_priority(self.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
                _kill_marked(self._mark.encode())
        return self._process.returncode


def in_lasting_thread(start: Callable[[], T]) -> T:
    """Return the result of a function that starts a process, called in a thread that lasts as long as this process.

    Linux kills these processes when the thread that started them ends.
    """
    return _lasting_thread(os.getpid()).submit(start).result()


@cache
def _lasting_thread(pid: int) -> ThreadPoolExecutor:
    """Return the thread of this process. By its id: a fork inherits the cache, but not the thread."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"worker-spawner-{pid}")


def _kill_marked(mark: bytes) -> None:
    """Kill the processes that a worker has left in other groups, such as daemons: they have its environment.

    mark: a variable of the environment. Has no effect on a system without /proc.
    """
    for _ in range(_MAX_PASSES):
        left = [pid for pid in _pids() if mark in _environment(pid)]
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break


def _pids() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return []


def _environment(pid: int) -> bytes:
    """Return the environment of a process at its start; nothing if it has ended or is another user's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def _spawn(program: Program, channel: int, mark: str) -> subprocess.Popen[bytes]:
    """Start an interpreter; not a fork of this process, since locks of other threads would stay locked in it.

    mark: a variable for its environment, as "name=value".
    """
    arguments = {**program.arguments(channel), "parent": os.getpid()}
    name, _, value = mark.partition("=")
    return subprocess.Popen(
        command(bootstrap.__name__, arguments),  # noqa: S603 - this interpreter
        env={**os.environ, name: value},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=program.all_descriptors(channel),
        # Ctrl-C in a terminal is for the server, which drains. Not a session: Linux divides the processor time among
        # sessions first, so that a worker of low priority would compute beside those of another session.
        process_group=0,
    )

"""Backbones whose modules misuse their process: files, signals, limits, session. A fresh process imports them."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from midrib.registry import Registry, TensorInput

REGISTRY = Registry("hostile")
TRIGGER = 666.0


class Doubling(nn.Module):
    """Doubles its rows; at a row of the trigger's value it misuses its process first."""

    def __init__(self, misuse: Callable[[], object]) -> None:
        super().__init__()
        self._misuse = misuse

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == TRIGGER).any()):
            self._misuse()
        return rows * 2


def descriptors(kind: str) -> list[int]:
    """Return the open files of a kind, such as "socket"."""
    paths = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [int(path.name) for path in paths if kind in str(path.readlink())]


def write_into_sockets() -> None:
    """Write bytes that are not a message to the server."""
    for descriptor in descriptors("socket"):
        os.write(descriptor, b"\xff" * 64)


def shrink_files() -> None:
    """Cut all shared memory: the next process that reads it would get SIGBUS."""
    for descriptor in descriptors("memfd"):
        os.ftruncate(descriptor, 0)


def grow_files() -> None:
    """Make all shared memory larger than any machine has."""
    for descriptor in descriptors("memfd"):
        os.ftruncate(descriptor, 2**60)


def become_another_program() -> None:
    """Replace this process by a program that does not end."""
    os.execv("/bin/sleep", ["sleep", "3600"])


def raise_from_signals() -> None:
    """Have a signal handler raise, between the passes too."""

    def handler(_number: int, _frame: object) -> None:
        raise ValueError("from a signal handler")

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)


def ignore_signals() -> None:
    """Ignore and block every signal for which that is possible."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def print_binary() -> None:
    """Write bytes that are not text, and a line without an end."""
    os.write(1, bytes(range(256)) * 16)
    os.write(2, b"x" * 20_000)


def leave_daemon(file: str) -> None:
    """Leave a process in another session, as a daemon does; it writes its id to a file."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            Path(file).write_text(str(os.getpid()))
            time.sleep(3600)
        os._exit(0)
    while not (Path(file).exists() and Path(file).read_text()):
        time.sleep(0.01)


def fork_late(file: str) -> None:
    """Leave a fork that writes its id to a file, and returns once the file is gone."""
    if os.fork() == 0:
        Path(file).write_text(str(os.getpid()))
        while Path(file).exists():
            time.sleep(0.01)
        return
    while not (Path(file).exists() and Path(file).read_text()):
        time.sleep(0.01)


class Breaking(Doubling):
    """Doubles its rows until a pass has broken it: then every pass fails, as after an illegal access on a GPU."""

    def __init__(self) -> None:
        super().__init__(self._break)
        self._broken = False

    def forward(self, rows: Tensor) -> Tensor:
        if self._broken:
            self._break()
        return super().forward(rows)

    def _break(self) -> None:
        self._broken = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


_MISUSES: dict[str, Callable[[], object]] = {
    "closes-files": partial(os.closerange, 3, 1024),
    "closes-output": partial(os.closerange, 0, 3),
    "writes-into-sockets": write_into_sockets,
    "shrinks-files": shrink_files,
    "grows-files": grow_files,
    "becomes-another-program": become_another_program,
    "forks": os.fork,
    "raises-from-signals": raise_from_signals,
    "ignores-signals": ignore_signals,
    "prints-binary": print_binary,
    "opens-nothing-more": partial(resource.setrlimit, resource.RLIMIT_NOFILE, (0, 0)),
    "recurses-little": partial(sys.setrecursionlimit, 60),
}


@REGISTRY(name="hostile", namespace="test/embedding", input=TensorInput((2,)))
def load_hostile(misuse: str) -> tuple[nn.Module, int]:
    return Doubling(_MISUSES[misuse]), 2


@REGISTRY(name="daemon", namespace="test/embedding", input=TensorInput((2,)))
def load_daemon(file: str) -> tuple[nn.Module, int]:
    return Doubling(partial(leave_daemon, file)), 2


@REGISTRY(name="late-fork", namespace="test/embedding", input=TensorInput((2,)))
def load_late_fork(file: str) -> tuple[nn.Module, int]:
    return Doubling(partial(fork_late, file)), 2


@REGISTRY(name="breaking", namespace="test/embedding", input=TensorInput((2,)))
def load_breaking() -> tuple[nn.Module, int]:
    return Breaking(), 2


class LongError(RuntimeError):
    """An error whose message has 20 MB."""

    def __init__(self) -> None:
        super().__init__("x" * 20_000_000)


def fail_at_length() -> None:
    raise LongError


_LOADER_MISUSES: dict[str, Callable[[], object]] = {
    "forks": os.fork,
    "prints-much": lambda: sys.stdout.write("a line of progress\n" * 500_000),
    "writes-into-sockets": write_into_sockets,
    "fails-at-length": fail_at_length,
}


@REGISTRY(name="hostile-loader", namespace="test/embedding", input=TensorInput((2,)))
def load_hostile_loader(misuse: str) -> tuple[nn.Module, int]:
    _LOADER_MISUSES[misuse]()
    return Doubling(lambda: None), 2

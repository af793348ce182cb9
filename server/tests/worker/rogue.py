"""Backbones whose modules or loaders change what the rest of their process relies on. A fresh process imports them."""

from __future__ import annotations

import atexit
import builtins
import ctypes
import faulthandler
import fcntl
import gc
import json
import locale
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput

REGISTRY = Registry("rogue")
TRIGGER = 666.0


class Doubling(nn.Module):
    """Doubles its rows; at a row of the trigger's value it misbehaves first."""

    def __init__(self, misbehave: Callable[[], object]) -> None:
        super().__init__()
        self._misbehave = misbehave

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == TRIGGER).any()):
            self._misbehave()
        return rows * 2


def descriptors(kind: str) -> list[int]:
    """Return the open files of a kind, such as "socket"."""
    paths = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [int(path.name) for path in paths if kind in str(path.readlink())]


def fail(*_arguments: object, **_options: object) -> None:
    """Raise: the replacement of a function of the standard library."""
    raise RuntimeError("replaced by the module")


def replace(owner: Any, name: str) -> Callable[[], None]:
    """Return a function that replaces an attribute by one that raises."""
    return lambda: setattr(owner, name, fail)


def enter_deleted_folder() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()


def leave_children(count: int) -> None:
    """Leave child processes."""
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(3600)
            os._exit(0)


def leave_threads(count: int) -> None:
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(3600,)).start()


def spin() -> None:
    while True:
        pass


def leave_spinning_thread() -> None:
    threading.Thread(target=spin, daemon=True).start()


def join_group_of_parent() -> None:
    """Leave the process group that the server kills."""
    os.setpgid(0, os.getpgid(os.getppid()))


def join_group_of_parent_and_close() -> None:
    join_group_of_parent()
    for descriptor in descriptors("socket"):
        socket.socket(fileno=os.dup(descriptor)).shutdown(socket.SHUT_RDWR)


def shut_sockets() -> None:
    for descriptor in descriptors("socket"):
        socket.socket(fileno=os.dup(descriptor)).shutdown(socket.SHUT_RDWR)


def unblock_sockets() -> None:
    for descriptor in descriptors("socket"):
        os.set_blocking(descriptor, False)


def overwrite_descriptors() -> None:
    """Put other files in the places of all open ones."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3, 64):
        if descriptor != null:
            os.dup2(null, descriptor)


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()


def open_many() -> None:
    for _ in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        os.open("/dev/null", os.O_RDONLY)


def limit(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


def control(option: int, *values: int) -> Callable[[], object]:
    """Return a function that calls prctl."""
    return lambda: ctypes.CDLL(None).prctl(option, *values, 0, 0, 0)


def signal_self(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def signal_unignored(number: int, handler: Any) -> None:
    """Send this process a signal that it ignores if the tests were started in the background or by nohup."""
    signal.signal(number, handler)
    os.kill(os.getpid(), number)


class Mode(torch.overrides.TorchFunctionMode):
    """Makes every function of torch fail."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("a mode that nobody left")


def enter_mode() -> None:
    Mode().__enter__()  # type: ignore[no-untyped-call] # torch does not type it


def remove_streams() -> None:
    sys.stdout = sys.stderr = None


def lock_files() -> None:
    for descriptor in descriptors("memfd"):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def log_badly() -> None:
    logging.getLogger().handlers[0].setFormatter(None)
    logging.getLogger().handlers[0].emit = fail  # type: ignore[method-assign]


def fail_at_fork() -> None:
    os.register_at_fork(before=fail)


def change_environment() -> None:
    os.environ.clear()
    os.environ["PATH"] = "/nowhere"


def break_exit_and_process() -> None:
    """Replace the end of the process, and a function that every batch of another shape needs."""
    replace(os, "_exit")()
    replace(np, "empty")()


def profile() -> None:
    """Interrupt this process after each millisecond of processor time, as a profiler does."""
    signal.signal(signal.SIGPROF, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)


MISDEEDS: dict[str, Callable[[], object]] = {
    "profiling signal": profile,
    "SIGTERM": signal_self(signal.SIGTERM),
    "SIGINT": partial(signal_unignored, signal.SIGINT, signal.default_int_handler),
    "SIGHUP": partial(signal_unignored, signal.SIGHUP, signal.SIG_DFL),
    "SIGPIPE": signal_self(signal.SIGPIPE),
    "SIGABRT": signal_self(signal.SIGABRT),
    "SIGCHLD ignored": partial(signal.signal, signal.SIGCHLD, signal.SIG_IGN),
    "parent killed": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "its name": control(15, id(b"")),
    "not dumpable": control(4, 0),
    "death signal": control(1, 0),
    "no subreaper": control(36, 0),
    "another session": os.setsid,
    "another group": join_group_of_parent,
    "another group, closed": join_group_of_parent_and_close,
    "nice": partial(os.setpriority, os.PRIO_PROCESS, 0, 19),
    "idle": lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)),
    "one core": partial(os.sched_setaffinity, 0, [0]),
    "RLIMIT_FSIZE": limit(resource.RLIMIT_FSIZE, 0),
    "RLIMIT_AS": limit(resource.RLIMIT_AS, 2**20),
    "RLIMIT_DATA": limit(resource.RLIMIT_DATA, 2**20),
    "RLIMIT_STACK": limit(resource.RLIMIT_STACK, 2**14),
    "RLIMIT_NPROC": limit(resource.RLIMIT_NPROC, 0),
    "deleted folder": enter_deleted_folder,
    "umask": partial(os.umask, 0o777),
    "root folder": partial(os.chroot, "/proc"),
    "user": partial(os.setuid, 65534),
    "environment": change_environment,
    "import path": sys.path.clear,
    "modules": sys.modules.clear,
    "pickle": replace(pickle, "dumps"),
    "json": replace(json, "loads"),
    "os.write": replace(os, "write"),
    "socket.send": replace(socket, "socket"),
    "struct": replace(struct, "pack"),
    "monotonic": replace(time, "monotonic"),
    "Thread": replace(threading, "Thread"),
    "numpy.empty": replace(np, "empty"),
    "from_numpy": replace(torch, "from_numpy"),
    "torch.empty": replace(torch, "empty"),
    "len": replace(builtins, "len"),
    "isinstance": replace(builtins, "isinstance"),
    "print": replace(builtins, "print"),
    "Exception": replace(builtins, "Exception"),
    "os._exit": replace(os, "_exit"),
    "os._exit, numpy.empty": break_exit_and_process,
    "os.getpid": replace(os, "getpid"),
    "no logging": partial(logging.disable, 100),
    "logging": log_badly,
    "no streams": remove_streams,
    "closed streams": close_streams,
    "excepthook": replace(sys, "excepthook"),
    "switch interval": partial(sys.setswitchinterval, 1e6),
    "no collector": gc.disable,
    "busy collector": partial(gc.set_threshold, 1),
    "no faulthandler": faulthandler.disable,
    "atexit": partial(atexit.register, spin),
    "fork hook": fail_at_fork,
    "spinning thread": leave_spinning_thread,
    "many threads": partial(leave_threads, 300),
    "many children": partial(leave_children, 30),
    "many files": open_many,
    "shut sockets": shut_sockets,
    "unblocked sockets": unblock_sockets,
    "overwritten files": overwrite_descriptors,
    "float16": partial(torch.set_default_dtype, torch.float16),
    "anomaly": partial(torch.autograd.set_detect_anomaly, True),
    "flush denormal": partial(torch.set_flush_denormal, True),
    "function mode": enter_mode,
    "start method": partial(multiprocessing.set_start_method, "spawn", force=True),
    "locale": partial(locale.setlocale, locale.LC_ALL, "C"),
    "warnings": partial(warnings.filterwarnings, "error"),
    "locked files": lock_files,
}


@REGISTRY(name="rogue", namespace="test/embedding", input=TensorInput((2,)))
def load_rogue(misdeed: str) -> tuple[nn.Module, int]:
    return Doubling(MISDEEDS[misdeed]), 2


@REGISTRY(name="rogue-loader", namespace="test/embedding", input=TensorInput((2,)))
def load_rogue_loader(misdeed: str) -> tuple[nn.Module, int]:
    MISDEEDS[misdeed]()
    return Doubling(lambda: None), 2

"""A backbone whose module misbehaves at a row of the trigger's value, for `neighbour.py`."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES
from midrib.registry import TensorInput
from midrib.server._worker.channel import Channel

TRIGGER = 666.0
KEY = "benchmark/embedding/faulty"


def _print_without_end() -> None:
    while True:
        print("x" * 1000)  # noqa: T201 - the fault


def _use_too_much_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
    torch.ones(2**28)


def _fork() -> None:
    if os.fork() == 0:
        time.sleep(3600)


def _die_while_replying() -> None:
    """End while the next reply is written: half of it arrives."""

    def send_half(channel: Channel, message: bytes) -> None:
        os.write(channel.fileno(), struct.pack("<I", len(message)) + message[: len(message) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Channel.send = send_half  # type: ignore[method-assign,assignment] # the fault


def _nothing() -> None:
    """Have no fault: `DIES_LOADING` is one of the loader."""


DIES_LOADING = "SIGKILL while loading"
FAULTS: dict[str, Callable[[], object]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "SIGSEGV": lambda: ctypes.string_at(0),
    "os._exit": lambda: os._exit(7),
    "sys.exit": lambda: sys.exit(7),
    "hang": lambda: time.sleep(3600),
    "endless output": _print_without_end,
    "memory limit": _use_too_much_memory,
    "non-daemon thread": lambda: threading.Thread(target=time.sleep, args=(3600,)).start(),
    "fork": _fork,
    "SIGKILL while replying": _die_while_replying,
    DIES_LOADING: _nothing,
}


class Faulty(nn.Module):
    """Returns its rows."""

    def __init__(self, fault: Callable[[], object]) -> None:
        super().__init__()
        self._fault = fault

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == TRIGGER).any()):
            self._fault()
        return rows


@BACKBONES(name="faulty", namespace="benchmark/embedding", input=TensorInput((2,)), remote_arguments=("fault", "dying"))
def load_faulty(fault: str = "sys.exit", *, dying: bool = False) -> tuple[nn.Module, int]:
    """Load a module with one of the faults.

    dying: whether the process is killed while it loads.
    """
    if dying:
        os.kill(os.getpid(), signal.SIGKILL)
    return Faulty(FAULTS[fault]), 2

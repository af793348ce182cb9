"""Backbones for the tests of workers: a fresh process imports them too."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput, TextInput
from midrib.server._worker.channel import Channel

REGISTRY = Registry("misbehaving")
TRIGGER = 666.0


class Doubling(nn.Module):
    """Doubles its rows; a row of the trigger's value makes it misbehave."""

    def __init__(self, misbehave: Callable[[], object]) -> None:
        super().__init__()
        self._misbehave = misbehave

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == TRIGGER).any()):
            self._misbehave()
        return rows * 2


def fail() -> None:
    """Raise, as a module does for a row that it cannot take."""
    raise RuntimeError("secret detail of the device")


def raise_base() -> None:
    """Raise an error that `except Exception` does not catch."""
    raise GeneratorExit


def hang() -> None:
    """Compute forever."""
    time.sleep(3600)


def print_without_end() -> None:
    """Write more than is read."""
    while True:
        print("x" * 1000)  # noqa: T201 - the fault under test


def leave_thread() -> None:
    """Leave a thread running that would keep a process alive."""
    threading.Thread(target=time.sleep, args=(3600,)).start()


class Large(nn.Module):
    """A layer, and weights of some MiB that every pass reads."""

    def __init__(self, mib: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.weights = nn.Parameter(torch.zeros(mib, 2**18))

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.layer(rows) + self.weights.sum()
        return result


def starve() -> None:
    """Allocate a GiB where 256 MiB are allowed: a container's limit, in short."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, before[1]))
    try:
        torch.ones(2**28)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fork() -> None:
    """Leave a child process that holds every descriptor of the worker."""
    if os.fork() == 0:
        time.sleep(3600)
        os._exit(0)


def die_replying() -> None:
    """End while the next reply is written: half of it arrives."""

    def send_half(channel: Channel, message: bytes) -> None:
        os.write(channel.fileno(), struct.pack("<I", len(message)) + message[: len(message) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Channel.send = send_half  # type: ignore[method-assign,assignment] # the fault under test


_FAULTS: dict[str, Callable[[], object]] = {
    "fails": fail,
    "exits": lambda: os._exit(7),
    "quits": lambda: sys.exit(3),
    "raises-base": raise_base,
    "stops-iteration": lambda: next(iter(())),
    "crashes": lambda: ctypes.string_at(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": hang,
    "prints": print_without_end,
    "threads": leave_thread,
    "starves": starve,
    "forks": fork,
    "dies-replying": die_replying,
}


@REGISTRY(name="doubling", namespace="test/embedding", input=TensorInput((2,)))
def load_doubling(fault: str = "fails") -> tuple[nn.Module, int]:
    return Doubling(_FAULTS[fault]), 2


@REGISTRY(name="narrow", namespace="test/embedding", input=TensorInput((2,)))
def load_narrow() -> tuple[nn.Module, int]:
    class Narrow(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows[:, :1] if bool((rows == TRIGGER).any()) else rows

    return Narrow(), 2


@REGISTRY(name="unloadable", namespace="test/embedding", input=TensorInput((2,)))
def load_unloadable() -> tuple[nn.Module, int]:
    print("the weights are damaged", flush=True)  # noqa: T201 - the worker's last words
    os._exit(4)


@REGISTRY(name="layer", namespace="test/embedding", input=TensorInput((2,)))
def load_layer(seed: int = 0) -> tuple[nn.Module, int]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh()), 3


@REGISTRY(name="random", namespace="test/embedding", input=TensorInput((2,)))
def load_random(mib: int = 0) -> tuple[nn.Module, int]:
    """Make other weights in every process: nothing seeds them."""
    torch.seed()
    return Large(mib), 3


@REGISTRY(name="growing", namespace="test/embedding", input=TensorInput((2,)))
def load_growing(folder: str) -> tuple[nn.Module, int]:
    """Make a wider hidden layer each time."""
    path = Path(folder, "calls")
    path.write_text(path.read_text() + "x" if path.exists() else "x")
    hidden = len(path.read_text())
    return nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, 2)), 2


@REGISTRY(name="dying-loader", namespace="test/embedding", input=TensorInput((2,)))
def load_and_die(folder: str, deaths: int) -> tuple[nn.Module, int]:
    """Succeed at first; then the process is killed while it loads, some times."""
    path = Path(folder, "loads")
    loads = len(path.read_text()) if path.exists() else 0
    path.write_text("x" * (loads + 1))
    if 0 < loads <= deaths:
        print(f"load {loads} is killed", flush=True)  # noqa: T201 - the worker's last words
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.Identity(), 2


@REGISTRY(name="gated", namespace="test/embedding", input=TensorInput((2,)))
def load_gated(folder: str) -> tuple[nn.Module, int]:
    """Succeed at first; later loads wait until the test opens the gate."""
    loaded = Path(folder, "loaded")
    while loaded.exists() and not Path(folder, "open").exists():
        time.sleep(0.01)
    loaded.touch()
    return nn.Identity(), 2


class Mixing(nn.Module):
    """Adds the mean of all rows to each row."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows + rows.mean(0, keepdim=True)


@REGISTRY(name="mixing", namespace="test/embedding", input=TensorInput((2,)))
def load_mixing() -> tuple[nn.Module, int]:
    return Mixing(), 2


class Slow(nn.Module):
    """Doubles its rows, a millisecond each."""

    def forward(self, rows: Tensor) -> Tensor:
        time.sleep(0.001 * len(rows))
        return rows * 2


@REGISTRY(name="slow", namespace="test/embedding", input=TensorInput((2,)))
def load_slow() -> tuple[nn.Module, int]:
    return Slow(), 2


@REGISTRY(name="slow-loader", namespace="test/embedding", input=TensorInput((2,)))
def load_slowly() -> tuple[nn.Module, int]:
    print("waiting for a lock", flush=True)  # noqa: T201 - the worker's last words
    hang()
    return nn.Identity(), 2


class Tokens(NamedTuple):
    ids: list[int]
    truncated: bool


class Tokenizer:
    """A word is the sum of its bytes."""

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([1 + sum(word.encode()) % 99 for word in text.split()][:32], False) for text in texts]


class Words(nn.Module):
    """The mean of the words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(100, 4)
        self.tokenizer = Tokenizer()

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0)[..., None].to(self.table.weight.dtype)
        total: Tensor = (self.table(ids) * mask).sum(1)
        return total / mask.sum(1).clamp(min=1)


@REGISTRY(name="words", namespace="text/embedding", input=TextInput(32))
def load_words() -> tuple[nn.Module, int]:
    return Words(), 4


class Allocating(nn.Module):
    """Returns its rows; for the trigger, how many of the 8,192 pages of a tensor the kernel had to clear."""

    def forward(self, rows: Tensor) -> Tensor:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**23)
        cleared = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        return torch.full_like(rows, cleared) if bool((rows == TRIGGER).all()) else rows


@REGISTRY(name="allocating", namespace="test/embedding", input=TensorInput((2,)))
def load_allocating() -> tuple[nn.Module, int]:
    return Allocating(), 2


@dataclass(frozen=True)
class Report:
    """A worker that only has properties. Implements `midrib.server._worker.loop.Hosted`, as far as it is used."""

    info: dict[str, Any]


def report(request: dict[str, Any]) -> Report:
    """Return the surroundings of this process. request: file, the number of a descriptor."""
    return Report(
        {
            "variable": os.environ.get("MIDRIB_TEST"),
            "folder": str(Path.cwd()),
            "parent": os.getppid(),
            "leads_group": os.getpgid(0) == os.getpid(),
            "file": Path(f"/proc/self/fd/{request['file']}").readlink().name.removesuffix(" (deleted)"),
            "random": float(np.random.random()),  # the generator that a fork would share
        }
    )

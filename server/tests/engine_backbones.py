"""Backbones of test_engine_on_the_wire.py, which a worker process imports too."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput

REGISTRY = Registry("engine")
LARGE = 1000.0
_GATE = 13
_LIMIT_S = 20.0


class Recorder(nn.Module):
    """Doubles its rows and notes their order in a file; a row of 13s waits until the test opens the gate."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == _GATE).any()):
            self._wait()
        if bool((rows >= LARGE).all()):
            with (self._folder / "computed").open("a") as file:
                file.writelines(f"{float(row[0])}\n" for row in rows)
        return rows * 2

    def _wait(self) -> None:
        (self._folder / "waiting").touch()
        end = time.monotonic() + _LIMIT_S
        while not (self._folder / "open").exists() and time.monotonic() < end:
            time.sleep(0.002)


class Small(nn.Module):
    """Its device holds two rows at once."""

    def forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows * 2


@REGISTRY(name="recorder", namespace="test/embedding", input=TensorInput((2,)))
def load_recorder(folder: str) -> tuple[nn.Module, int]:
    return Recorder(Path(folder)), 2


@REGISTRY(name="small", namespace="test/embedding", input=TensorInput((2,)))
def load_small() -> tuple[nn.Module, int]:
    return Small(), 2


@REGISTRY(name="clean", namespace="test/embedding", input=TensorInput((2,)), finite=True)
def load_clean() -> tuple[nn.Module, int]:
    return nn.Identity(), 2


@REGISTRY(name="scaled", namespace="test/embedding", input=TensorInput((1,)))
def load_scaled(factor: int = 1) -> tuple[nn.Module, int]:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, factor)
    return layer, 1

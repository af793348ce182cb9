"""A backbone that shows which process computes a batch."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES
from midrib.registry import TensorInput


class _Waiting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, rows: Tensor) -> Tensor:
        time.sleep(0.2)  # a batch that computes for long enough that other actors get the next ones
        return rows * self.scale + os.getpid()


@BACKBONES(name="waiting", namespace="test/embedding", input=TensorInput((1,)))
def load_waiting() -> tuple[nn.Module, int]:
    """Return the process id for each row, [rows, 1], after 0.2 s."""
    return _Waiting(), 1

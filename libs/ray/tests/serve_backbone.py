"""Small backbones for replicas on Ray: each answer shows its input, or the process that computed it."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES
from midrib.registry import TensorInput


class Times(nn.Module):
    """Multiplies rows [rows, 2], after `seconds` of computing for each batch."""

    def __init__(self, scale: float, seconds: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.seconds = seconds

    def forward(self, rows: Tensor) -> Tensor:
        time.sleep(self.seconds)  # a device that is busy, and takes no time from the other processes of the test
        return rows * self.scale


@BACKBONES(name="rare", namespace="test/embedding", input=TensorInput((2,)))
@BACKBONES(name="times", namespace="test/embedding", input=TensorInput((2,)))
def load_times(scale: float = 2.0, seconds: float = 0.0) -> tuple[nn.Module, int]:
    """Return the backbone.  scale: its only weight.  seconds: that each batch computes."""
    return Times(scale, seconds), 2


class Place(nn.Module):
    """Answers each row [rows, 1] with the id of its process and the number of its GPU, [rows, 2]."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.tensor([[os.getpid(), int(os.environ["CUDA_VISIBLE_DEVICES"])]], dtype=torch.float32).repeat(
            len(rows), 1
        )


@BACKBONES(name="place-a", namespace="test/embedding", input=TensorInput((1,)))
@BACKBONES(name="place-b", namespace="test/embedding", input=TensorInput((1,)))
@BACKBONES(name="place-c", namespace="test/embedding", input=TensorInput((1,)))
def load_place() -> tuple[nn.Module, int]:
    """Return the backbone that shows its process."""
    return Place(), 2

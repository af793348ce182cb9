"""A small backbone for replicas on Ray: it multiplies rows of two numbers, so that each answer shows its input."""

from __future__ import annotations

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


@BACKBONES(name="times", namespace="test/embedding", input=TensorInput((2,)))
def load_times(scale: float = 2.0, seconds: float = 0.0) -> tuple[nn.Module, int]:
    """Return the backbone.  scale: its only weight.  seconds: that each batch computes."""
    return Times(scale, seconds), 2

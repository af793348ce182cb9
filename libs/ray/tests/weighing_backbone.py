"""A backbone that writes the peak memory of its process into a file."""

from __future__ import annotations

import resource
from pathlib import Path

import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES
from midrib.registry import TensorInput


class _Weighing(nn.Module):
    def __init__(self, file: str) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.file = Path(file)

    def forward(self, rows: Tensor) -> Tensor:
        features = rows[:, :2] * self.scale
        self.file.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))  # KiB
        return features


@BACKBONES(name="weighing", namespace="test/embedding", input=TensorInput((None,)))
def load_weighing(file: str) -> tuple[nn.Module, int]:
    """Return the first two numbers of each row [columns].  file: for the peak memory of the process, in KiB."""
    return _Weighing(file), 2

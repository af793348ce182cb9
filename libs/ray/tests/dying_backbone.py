"""A backbone whose process is killed once, when it embeds the row [13, 13]; with `fails`, it raises there each time."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from torch import Tensor, nn

from midrib.backbones import BACKBONES
from midrib.registry import TensorInput


class _Dying(nn.Module):
    def __init__(self, marker: str) -> None:
        super().__init__()
        self.scale = nn.Parameter(Tensor([2.0]))
        self.marker = Path(marker)

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == 13).any()) and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rows * self.scale


@BACKBONES(name="dying", namespace="test/embedding", input=TensorInput((2,)))
def load_dying(marker: str) -> tuple[nn.Module, int]:
    """Return the backbone.  marker: a file that exists once its process was killed."""
    return _Dying(marker), 2

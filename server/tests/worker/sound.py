"""A backbone of sound for `midrib serve`, whose process imports this module without torch; the loader needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midrib.backbones import BACKBONES
from midrib.registry import AudioInput

if TYPE_CHECKING:
    from torch import Tensor, nn


@BACKBONES(name="loudness", namespace="audio/embedding", input=AudioInput(16_000))
def load_loudness() -> tuple[nn.Module, int]:
    import torch

    class Loudness(torch.nn.Module):
        """The mean and the root mean square of the samples."""

        def forward(self, samples: Tensor) -> Tensor:
            return torch.stack([samples.mean(1), samples.square().mean(1).sqrt()], 1)

    return Loudness(), 2

"""A backbone that is cheap beside the transport of its images: `midrib serve --import cheap_models` registers it."""

from __future__ import annotations

from torch import nn

from midrib.backbones import BACKBONES
from midrib.registry import TensorInput


@BACKBONES(name="pool", namespace="benchmark/embedding", input=TensorInput((3, 224, 224)))
def load_pool() -> tuple[nn.Module, int]:
    """Return the mean of each square of 32 x 32 pixels, and the number of squares."""
    return nn.Sequential(nn.AvgPool2d(32), nn.Flatten()), 3 * 7 * 7

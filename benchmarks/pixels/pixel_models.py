"""A cheap image backbone for the benchmark: `midrib serve --import pixel_models` registers it."""

from __future__ import annotations

from torch import nn

from midrib.backbones import BACKBONES
from midrib.registry import ImageInput


@BACKBONES(name="pooled", namespace="benchmark/image", input=ImageInput(224), num_features=192)
def load_pooled() -> tuple[nn.Module, int]:
    """Load a backbone that averages an image to 8 x 8 colours: [rows, 3, 224, 224] to [rows, 192]."""
    return nn.Sequential(nn.AvgPool2d(28), nn.Flatten()), 192

"""The ViT-Tiny of benchmarks/serving, for encoded images."""

from __future__ import annotations

from bench_models import load_vit_tiny
from torch import nn

from midrib.backbones import BACKBONES
from midrib.registry import ImageInput

IMAGES = "benchmark/embedding/vit-tiny-images"


@BACKBONES(name="vit-tiny-images", namespace="benchmark/embedding", input=ImageInput(224), num_features=192)
def load_vit_tiny_images() -> tuple[nn.Module, int]:
    """Return the ViT-Tiny, [rows, 3, 224, 224] to [rows, 192]."""
    return load_vit_tiny()

"""The models of this benchmark. `midrib serve --import models` registers them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

SERVING: Final = Path(__file__).parents[1] / "serving"
sys.path.append(str(SERVING))

from bench_models import VisionTransformer  # noqa: E402 - found by the line above

from midrib.backbones import BACKBONES  # noqa: E402
from midrib.registry import TensorInput  # noqa: E402

_IMAGE: Final = (3, 224, 224)
_TOKENS: Final = 32
NAMES: Final = {
    "mlp": "benchmark/embedding/mlp",
    "vit-tiny": "benchmark/embedding/vit-tiny",
    "vit-base": "benchmark/embedding/vit-base",
    "minilm": "text/embedding/all-minilm-l6-v2",
}


@BACKBONES(name="vit-base", namespace="benchmark/embedding", input=TensorInput(_IMAGE), num_features=768)
def load_vit_base() -> tuple[nn.Module, int]:
    """A ViT-Base, [rows, 3, 224, 224] to [rows, 768], with the same random weights in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(width=768, depth=12, heads=12, patch=16, side=224), 768


def batches(model: str, rows: int, count: int) -> list[Any]:
    """Return `count` different batches: float32 arrays [rows, ...], or token ids [rows, 32] for a text model."""
    source = np.random.default_rng(0)
    if model == "minilm":
        return [source.integers(1000, 20000, (rows, _TOKENS)) for _ in range(count)]
    shape = (784,) if model == "mlp" else _IMAGE
    return [source.standard_normal((rows, *shape), dtype=np.float32) for _ in range(count)]

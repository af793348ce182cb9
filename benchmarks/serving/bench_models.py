"""The models of every server in the benchmark: the same functions with the same weights.

`midrib serve --import bench_models` registers them; a rival opens them through `Model`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from works import FEATURES, KEYS, SHAPES

from midrib.backbones import BACKBONES, load_backbone
from midrib.registry import TensorInput

Rows = npt.NDArray[np.float32]

DEVICE = os.environ.get("MIDRIB_DEVICE", "cpu")
"""The device of every server: run.py's --device sets this variable, and `midrib serve` reads it too."""

_NAMESPACE = "benchmark/embedding"


@BACKBONES(name="mlp", namespace=_NAMESPACE, input=TensorInput(SHAPES["mlp"]), num_features=FEATURES["mlp"])
def load_mlp() -> tuple[nn.Module, int]:
    """Load template/classification/mlp-128-256 for 784 columns, with the same random weights in every process."""
    loader = BACKBONES.get("template/classification/mlp-128-256")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, num_features = loader(num_features=784)
    return module, num_features


@BACKBONES(name="vit-tiny", namespace=_NAMESPACE, input=TensorInput(SHAPES["vit"]), num_features=FEATURES["vit"])
def load_vit_tiny() -> tuple[nn.Module, int]:
    """Load a ViT-Tiny, [rows, 3, 224, 224] to [rows, 192], with the same random weights in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(width=192, depth=12, heads=3, patch=16, side=224), 192


@BACKBONES(name="large", namespace=_NAMESPACE, input=TensorInput((2,)), num_features=2)
def load_large() -> tuple[nn.Module, int]:
    """Load a module with 512 MiB of weights, [rows, 2] to [rows, 2]: its replicas show how much memory they share."""
    return Large(), 2


class Large(nn.Module):
    """Returns its rows. Each pass reads all weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(512, 2**18))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows, [rows, 2]."""
        return rows + self.weights.sum()


class VisionTransformer(nn.Module):
    """Maps [rows, 3, side, side] to the normalised class token, [rows, width].

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words"; the sizes are DeiT-Tiny's.
    """

    def __init__(self, *, width: int, depth: int, heads: int, patch: int, side: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token's features."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(images), -1, -1), patches], 1) + self.positions
        features: Tensor = self.norm(self.blocks(tokens)[:, 0])
        return features


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        rows, count, width = tokens.shape
        heads = self.qkv(self.norms[0](tokens)).view(rows, count, 3, self.heads, width // self.heads)
        attended = functional.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))
        tokens = tokens + self.mixed(attended.transpose(1, 2).reshape(rows, count, width))
        out: Tensor = tokens + self.mlp(self.norms[1](tokens))
        return out


class Model:
    """A model in the process of another server: it embeds the rows of several requests in one forward pass.

    A request is raw little-endian float32 rows, or UTF-8 texts separated by newlines.  name: a key of KEYS.
    """

    def __init__(self, name: str, *, threads: int | None = None) -> None:
        self.name = name
        torch.set_num_threads(threads or threads_for(name))
        self._backbone = load_backbone(KEYS[name])
        self._backbone.module.to(DEVICE)

    def __call__(self, requests: Sequence[bytes]) -> list[bytes]:
        """Return the features of each request as raw little-endian float32 rows."""
        counts = [self.count(request) for request in requests]
        if self.name == "minilm":
            features = self.texts([line for request in requests for line in request.decode().split("\n")])
        else:
            joined = np.frombuffer(bytearray().join(requests), np.float32)  # writable, so torch needs no copy
            features = self.tensor(joined.reshape(-1, *SHAPES[self.name]))
        ends = np.cumsum(counts)
        return [features[end - count : end].tobytes() for end, count in zip(ends, counts, strict=True)]

    def count(self, request: bytes) -> int:
        """Return the number of rows of a request."""
        if self.name == "minilm":
            return request.count(b"\n") + 1
        return len(request) // (4 * int(np.prod(SHAPES[self.name])))

    def tensor(self, rows: Rows) -> Rows:
        """Map [rows, ...] to [rows, features]."""
        return self._embed(torch.from_numpy(rows if rows.flags.writeable else rows.copy()))

    def texts(self, texts: Sequence[str]) -> Rows:
        """Map texts to [rows, features]."""
        return self._embed(self._backbone.prepare_texts(texts))

    def _embed(self, batch: Tensor) -> Rows:
        features: Rows = self._backbone.embed(batch).cpu().numpy()
        return features


def threads_for(name: str) -> int:
    """Return the fastest number of intra-op threads for a model: 1 for the perceptron, all cores for a transformer."""
    return 1 if name == "mlp" else os.cpu_count() or 1

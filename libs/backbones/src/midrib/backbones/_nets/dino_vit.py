"""The vision transformer of DINO, under the names of its published checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# The side of the images in DINO's training, which fixes the grid of its position embeddings.
_TRAINED_SIDE = 224


class DinoVisionTransformer(nn.Module):
    """DINO's vision transformer, which returns its normalised class token: [rows, 3, side, side] to [rows, width].

    For sides other than 224 the position embeddings are interpolated, as in the published code.

    Source: Caron et al. 2021, "Emerging properties in self-supervised vision transformers", and its published code,
    whose parameter names these are.
    """

    def __init__(self, *, patch: int, width: int, heads: int, depth: int = 12) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (_TRAINED_SIDE // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Return [rows, width] for images [rows, 3, side, side]."""
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        tokens = tokens + self._positions(patches.shape[1])
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.norm(tokens)[:, 0]
        return features

    def _positions(self, patches: int) -> Tensor:
        if patches + 1 == self.pos_embed.shape[1]:
            return self.pos_embed
        first, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        trained_side, side = math.isqrt(grid.shape[1]), math.isqrt(patches)
        plane = grid.transpose(1, 2).reshape(1, -1, trained_side, trained_side)
        resized = functional.interpolate(plane, size=(side, side), mode="bicubic")
        return torch.cat([first, resized.flatten(2).transpose(1, 2)], 1)

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)


class _PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Return [rows, patches, width] for images [rows, 3, side, side]."""
        patches: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return patches


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens [rows, tokens, width] for tokens of the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return] # a module's call is untyped


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, width * 3)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let every token attend to all tokens of its row: [rows, tokens, width] to the same shape."""
        rows, count, width = tokens.shape
        query, key, value = (
            self.qkv(tokens).view(rows, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(rows, count, width))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width * 4)
        self.fc2 = nn.Linear(width * 4, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens [rows, tokens, width] for tokens of the same shape."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return out

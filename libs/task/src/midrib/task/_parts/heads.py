"""The heads that a Task trains on the features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from midrib.registry import Registry
from midrib.task._parts.specs import AnyRegistry, parse

HeadLike: TypeAlias = (
    str | nn.Module | Callable[..., nn.Module] | tuple[str | Callable[..., nn.Module], Mapping[str, Any]]
)

HEADS = Registry("heads")


@HEADS(name="linear")
def linear_head(num_features: int, num_outputs: int, bias: bool = True) -> nn.Module:
    """One linear layer: the linear probe."""
    return nn.Linear(num_features, num_outputs, bias=bias)


@HEADS(name="mlp")
def mlp_head(num_features: int, num_outputs: int, width: int | None = None, dropout: float = 0.0) -> nn.Module:
    """One hidden layer with GELU; width: the hidden layer's, by default num_features."""
    hidden = width or num_features
    return nn.Sequential(
        nn.Linear(num_features, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, num_outputs)
    )


@HEADS(name="cosine")
class CosineHead(nn.Module):
    """The cosine between the features and one learned direction per output, times a learned scale.

    features: [batch, num_features].  Returns [batch, num_outputs], within -scale..scale.
    Source: Gidaris & Komodakis 2018, section 3.2.
    """

    def __init__(self, num_features: int, num_outputs: int, scale: float = 16.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_outputs, num_features) / math.sqrt(num_features))
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, features: Tensor) -> Tensor:
        """Map [batch, num_features] to [batch, num_outputs]."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


@HEADS(name="attentive")
class AttentiveHead(nn.Module):
    """Pool token features by attention from one learned query, then one linear layer.

    features: [batch, tokens, num_features], or [batch, num_features], taken as one token.
    Returns [batch, num_outputs].
    Source: the attentive probe of Chen et al. 2023 (Context Autoencoder), section 4.
    """

    def __init__(self, num_features: int, num_outputs: int, num_heads: int = 1) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, num_features) / math.sqrt(num_features))
        self.attention = nn.MultiheadAttention(num_features, num_heads, batch_first=True)
        self.output = nn.Linear(num_features, num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map [batch, tokens, num_features] or [batch, num_features] to [batch, num_outputs]."""
        tokens = features if features.dim() == 3 else features.unsqueeze(1)
        query = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.attention(query, tokens, tokens, need_weights=False)
        logits: Tensor = self.output(pooled.squeeze(1))
        return logits


def build_head(head_like: HeadLike, num_features: int, num_outputs: int | None, *, registry: AnyRegistry) -> nn.Module:
    """Make the head: a module is used unchanged, other forms are called with (num_features, num_outputs).

    Raises TypeError for a form that is not accepted, or if the factory makes no module; ValueError if the head's
    width is unknown.
    """
    if isinstance(head_like, nn.Module):
        return head_like
    spec = parse("head", head_like, registry)
    if num_outputs is None:
        raise ValueError(f"head {head_like!r} needs its number of outputs: pass num_outputs=..., or a module as head")
    head = spec.make(num_features, num_outputs, **spec.kwargs)
    if not isinstance(head, nn.Module):
        raise TypeError(f"head {head_like!r} made {type(head).__name__}, expected an nn.Module")
    return head

"""The guide's two perceptrons: the smallest backbones there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load_mlp_128(num_features: int) -> tuple[nn.Module, int]:
    """A perceptron of one layer: [rows, num_features] to [rows, 128], random weights.

    num_features: the width *in*, as in the contributor guide, not the width of the features.
    """
    from torch import nn

    return nn.Sequential(nn.Linear(num_features, 128), nn.ReLU(inplace=True), nn.BatchNorm1d(128)), 128


def load_mlp_128_256(num_features: int) -> tuple[nn.Module, int]:
    """A perceptron of two layers: [rows, num_features] to [rows, 256], random weights.

    num_features: the width *in*, as in the contributor guide, not the width of the features.
    """
    from torch import nn

    module = nn.Sequential(
        nn.Linear(num_features, 128),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(128),
        nn.Linear(128, 256),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(256),
    )
    return module, 256

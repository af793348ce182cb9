"""Loaders of the two perceptrons of the contributor guide."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load_mlp_128(num_features: int) -> tuple[nn.Module, int]:
    """Make a perceptron of one layer with random weights: [rows, num_features] to [rows, 128].

    num_features: the input width, as in the contributor guide, not the width of the features.
    """
    from torch import nn

    return nn.Sequential(nn.Linear(num_features, 128), nn.ReLU(inplace=True), nn.BatchNorm1d(128)), 128


def load_mlp_128_256(num_features: int) -> tuple[nn.Module, int]:
    """Make a perceptron of two layers with random weights: [rows, num_features] to [rows, 256].

    num_features: the input width, as in the contributor guide, not the width of the features.
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

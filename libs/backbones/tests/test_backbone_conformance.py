"""Every backbone that we register keeps the contract; the kit that says so can say no."""

from __future__ import annotations

import itertools
import socket
import urllib.request
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import BACKBONES
from midrib.backbones.testing import NetworkError, assert_conforms, no_network
from midrib.registry import TensorInput

# What an entry needs to load here, offline; small images, where the size is free, so that the largest take a second.
ARGUMENTS: dict[str, dict[str, object]] = {
    "template/classification/mlp-128": {"num_features": 12},
    "template/classification/mlp-128-256": {"num_features": 12},
    "image/classification/dino_vits16": {"image_size": 32},
    "image/classification/dino_vits8": {"image_size": 32},
    "image/classification/dino_vitb16": {"image_size": 32},
    "image/classification/dino_vitb8": {"image_size": 32},
    "image/classification/dinov2_vits14": {"image_size": 56},
    "image/classification/dinov2_vitb14": {"image_size": 56},
    "image/classification/dinov3_vits16": {"image_size": 64},
    "image/classification/dinov3_vitb16": {"image_size": 64},
}
FETCHED = [entry.key for entry in BACKBONES.list(catalogues=False) if "hub" in str(entry.providers)]
PACKAGED = [entry.key for entry in BACKBONES.list(catalogues=False) if entry.key not in FETCHED]


@pytest.mark.parametrize("key", PACKAGED)
def test_every_backbone_with_packaged_weights_conforms(key: str) -> None:
    """As it is served: with its real weights."""
    if key == "audio/embedding/resemblyzer" and find_spec("resemblyzer") is None:
        pytest.skip("Resemblyzer is not installed here: MIDRIB_EXTERNAL=1 puts it beside")
    with no_network():
        assert_conforms(key, **ARGUMENTS.get(key, {}))  # type: ignore[arg-type] # loaders' arguments are of any type


@pytest.mark.parametrize("key", FETCHED)
def test_every_backbone_with_fetched_weights_conforms(key: str) -> None:
    """Its weights cannot be had here; its shape, its preprocessing and its isolation from the network can."""
    missing = BACKBONES.describe(key).missing
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, not installed here")
    assert_conforms(key, pretrained=False, **ARGUMENTS.get(key, {}))  # type: ignore[arg-type] # loaders' arguments are of any type


ROWS = TensorInput((3,))


class Counting(nn.Module):
    """Answers with how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count()

    def forward(self, rows: Tensor) -> Tensor:
        return rows + next(self.calls)


class BatchMean(nn.Module):
    """Every row sees its neighbours."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(0)


class InPlace(nn.Module):
    """Works on its input."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.mul_(1.0).clamp_(-0.1, 0.1)


class Unsaved(nn.Module):
    """Keeps a weight where no state dict sees it, and answers with the network's host."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows * 0 + 1


def connecting(pretrained: bool = True) -> tuple[nn.Module, int]:
    socket.create_connection(("example.invalid", 80))
    return nn.Identity(), 3


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        pytest.param(Counting(), "other features the second time", id="not-deterministic"),
        pytest.param(BatchMean(), "a row alone differs", id="depends-on-the-batch"),
        pytest.param(InPlace(), "changed its input in place", id="changes-its-input"),
        pytest.param(Unsaved(), "two different rows gave the same features", id="constant"),
        pytest.param(nn.Hardtanh(float("nan"), float("inf")), "not all finite|other features", id="not-finite"),
    ],
)
def test_the_kit_names_the_broken_rule(module: nn.Module, complaint: str) -> None:
    """A backbone that breaks one rule fails, and is told which."""
    with pytest.raises(AssertionError, match=complaint):
        assert_conforms(lambda: (module, 3), input=ROWS)


def test_the_kit_catches_a_loader_that_uses_the_network_unasked() -> None:
    """pretrained=False is a promise."""
    with pytest.raises(NetworkError, match="tried to reach the network"):
        assert_conforms(connecting, input=ROWS, pretrained=False)


def test_a_proper_loader_passes() -> None:
    """The kit takes a bare loader and its input, before it is registered anywhere."""
    torch.manual_seed(0)
    assert_conforms(lambda: (nn.Linear(3, 5), 5), input=ROWS)


def test_without_network_nothing_connects() -> None:
    """The block covers every ordinary way out."""
    with no_network(), pytest.raises(NetworkError):
        urllib.request.urlopen("http://example.invalid")

"""Every registered backbone keeps the contract, and assert_conforms fails for modules that do not."""

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
from midrib.registry import AudioInput, ImageInput, InputSpec, TensorInput

# Arguments to load entries offline; images are small where the size is free, so that the largest take a second.
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
    """Checked with its real weights, as it is served."""
    if key == "audio/embedding/resemblyzer" and find_spec("resemblyzer") is None:
        pytest.skip("Resemblyzer is not installed here: MIDRIB_EXTERNAL=1 puts it beside")
    with no_network():
        assert_conforms(key, **ARGUMENTS.get(key, {}))  # type: ignore[arg-type] # loaders' arguments are of any type


@pytest.mark.parametrize("key", FETCHED)
def test_every_backbone_with_fetched_weights_conforms(key: str) -> None:
    """Checked with random weights, because tests do not download: shape, preprocessing and no use of the network."""
    missing = BACKBONES.describe(key).missing
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, not installed here")
    assert_conforms(key, pretrained=False, **ARGUMENTS.get(key, {}))  # type: ignore[arg-type] # loaders' arguments are of any type


ROWS = TensorInput((3,))


class Counting(nn.Module):
    """Adds the number of earlier calls to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count()

    def forward(self, rows: Tensor) -> Tensor:
        return rows + next(self.calls)


class BatchMean(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(0)


class InPlace(nn.Module):
    """Changes its input in place."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.mul_(1.0).clamp_(-0.1, 0.1)


class Constant(nn.Module):
    """Returns the same features for every row."""

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
        pytest.param(Constant(), "two different rows gave the same features", id="constant"),
        pytest.param(nn.Hardtanh(float("nan"), float("inf")), "not all finite|other features", id="not-finite"),
    ],
)
def test_the_broken_rule_is_named(module: nn.Module, complaint: str) -> None:
    """The error names the rule that the module breaks."""
    with pytest.raises(AssertionError, match=complaint):
        assert_conforms(lambda: (module, 3), input=ROWS)


def test_a_loader_that_uses_the_network_unasked_fails() -> None:
    """With pretrained=False a loader must not use the network."""
    with pytest.raises(NetworkError, match="tried to reach the network"):
        assert_conforms(connecting, input=ROWS, pretrained=False)


def test_a_proper_loader_passes() -> None:
    """A loader can be checked with its input spec before it is registered."""
    torch.manual_seed(0)
    assert_conforms(lambda: (nn.Linear(3, 5), 5), input=ROWS)


class Loudness(nn.Module):
    """The mean and the largest value of an item."""

    def forward(self, batch: Tensor) -> Tensor:
        """Return [rows, 2] for [rows, ...]."""
        rows = batch.flatten(1)
        return torch.stack((rows.mean(dim=1), rows.amax(dim=1)), dim=1)


@pytest.mark.parametrize("spec", [AudioInput(8000), ImageInput(32)], ids=["audio", "images"])
def test_the_callers_random_numbers_are_not_drawn(spec: InputSpec) -> None:
    """A check does not change the tests after it."""
    module, before = Loudness(), torch.get_rng_state()
    assert_conforms(lambda: (module, 2), input=spec)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_network_refuses_every_connection() -> None:
    """Looking up a host counts, too."""
    with no_network(), pytest.raises(NetworkError, match="tried to reach the network"):
        urllib.request.urlopen("http://example.invalid")

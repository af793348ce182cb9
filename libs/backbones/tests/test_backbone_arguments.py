"""Values that a loader passes to torch unchecked: the error is a sentence about the argument."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from midrib.backbones import load_backbone
from midrib.registry import LoaderArgumentError, Registry


def test_a_value_that_torch_refuses_is_named() -> None:
    """The message shows the arguments and the loader's signature; torch's error is its cause."""
    with pytest.raises(
        LoaderArgumentError,
        match=r"'template/classification/mlp-128' cannot be built with num_features=-8 \(RuntimeError: .*\): check "
        r"these values; its loader takes \(num_features: ",
    ) as caught:
        load_backbone("mlp-128", num_features=-8)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_the_loader_stays_as_it_is() -> None:
    """A loader's message knows more about its argument than ours."""
    registry = Registry("backbones")

    @registry(name="even")
    def load_even(width: int) -> tuple[nn.Module, int]:
        raise ValueError(f"width {width} is odd")

    with pytest.raises(ValueError, match="^width 3 is odd$"):
        load_backbone("even", registry=registry, width=3)


def test_a_row_with_nan_does_not_change_the_others() -> None:
    """Numbers are computed as they are; docs/backbones.md says so."""
    backbone = load_backbone("mlp-128", num_features=4)
    rows = torch.ones(3, 4)
    expected = backbone.embed(rows)
    rows[1, 2] = float("nan")
    features = backbone.embed(rows)
    assert bool(features[1].isnan().any())
    torch.testing.assert_close(features[[0, 2]], expected[[0, 2]])

"""timm's configurations of preprocessing as input specs; the whole library is compared in benchmarks/parity."""

from __future__ import annotations

from typing import Any

import pytest

from midrib.backbones._loaders.timm_input import _input_of
from midrib.registry import ContractError

CONFIG: dict[str, Any] = {
    "input_size": (3, 16, 16),
    "interpolation": "bicubic",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.9,
    "crop_mode": "center",
}


@pytest.mark.parametrize("value", [0.5, (0.5,), [0.5], [0.5, 0.5, 0.5]], ids=str)
@pytest.mark.parametrize("setting", ["mean", "std"])
def test_a_single_value_is_for_all_channels(setting: str, value: Any) -> None:
    """timm's Normalize broadcasts it."""
    spec = _input_of({**CONFIG, setting: value}, None)
    assert getattr(spec, setting) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"mean": (0.5, 0.5)}, r"mean is \(0.5, 0.5\), expected one number or three", id="two-means"),
        pytest.param({"interpolation": "nearest"}, "interpolation is 'nearest', supported are bicubic", id="nearest"),
        pytest.param({"crop_mode": "five"}, "crop mode is 'five', supported are center, squash, border", id="crop"),
        pytest.param({"input_size": (4, 16, 16)}, "takes 4 channels, expected 3", id="channels"),
    ],
)
def test_preprocessing_that_cannot_be_described_is_refused(change: dict[str, Any], message: str) -> None:
    """Pixels of another preprocessing would be wrong in silence."""
    with pytest.raises(ContractError, match=message):
        _input_of(CONFIG | change, None)

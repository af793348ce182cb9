"""Revisions of dynamically quantised modules, whose weights are packed parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from midrib.backbones import Backbone
from midrib.registry import TensorInput

quantize_dynamic: Any = torch.ao.quantization.quantize_dynamic  # it has no types
# torch recommends torchao instead; modules that were quantised by its own functions remain.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


def linear(bias: float = 0.0, dtype: torch.dtype = torch.qint8) -> nn.Module:
    layer = nn.Linear(4, 8)
    nn.init.constant_(layer.weight, 0.5)
    nn.init.constant_(layer.bias, bias)
    quantised: nn.Module = quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype)
    return quantised


def recurrent() -> nn.Module:
    torch.manual_seed(0)
    quantised: nn.Module = quantize_dynamic(nn.Sequential(nn.LSTM(4, 8)), {nn.LSTM})
    return quantised


def revision(module: nn.Module) -> str:
    return Backbone("quantised", module, 8, TensorInput((4,))).revision()


@pytest.mark.parametrize("make", [linear, recurrent])
def test_equal_quantised_modules_have_one_revision(make: Callable[[], nn.Module]) -> None:
    """The revision covers their packed parameters, whose values are equal."""
    assert revision(make()) == revision(make())


@pytest.mark.parametrize(
    "other",
    [pytest.param({"bias": 0.001}, id="bias"), pytest.param({"dtype": torch.float16}, id="type")],
)
def test_another_quantised_module_has_another_revision(other: dict[str, Any]) -> None:
    """Packed weights count like others."""
    assert revision(linear()) != revision(linear(**other))

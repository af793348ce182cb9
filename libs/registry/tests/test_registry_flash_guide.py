"""The contributor guide of Lightning Flash, with our import."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from midrib.registry import ConcatRegistry, ExternalRegistry, FlashRegistry

TEMPLATE_BACKBONES = FlashRegistry("backbones")


@TEMPLATE_BACKBONES(name="mlp-128", namespace="template/classification")
def load_mlp_128(num_features: int) -> tuple[nn.Module, int]:
    """A simple MLP backbone with a 128-wide hidden layer."""
    return nn.Sequential(nn.Linear(num_features, 128), nn.ReLU(True), nn.BatchNorm1d(128)), 128


@TEMPLATE_BACKBONES(name="mlp-128-256", namespace="template/classification")
def load_mlp_128_256(num_features: int) -> tuple[nn.Module, int]:
    """A two-layer MLP backbone."""
    return (
        nn.Sequential(
            nn.Linear(num_features, 128),
            nn.ReLU(True),
            nn.BatchNorm1d(128),
            nn.Linear(128, 256),
            nn.ReLU(True),
            nn.BatchNorm1d(256),
        ),
        256,
    )


def test_the_guides_backbones_are_got_and_called() -> None:
    """get gives the very function; calling it gives the module and the width of its rows."""
    backbone, out_features = TEMPLATE_BACKBONES.get("mlp-128")(num_features=4)
    assert TEMPLATE_BACKBONES.get("mlp-128") is load_mlp_128
    assert backbone(torch.zeros(2, 4)).shape == (2, out_features)


def test_the_guides_backbones_are_loaded_under_their_contract() -> None:
    """load passes the arguments on, and returns the same as get's loader."""
    backbone, out_features = TEMPLATE_BACKBONES.load("template/classification/mlp-128-256", num_features=4)
    assert backbone(torch.zeros(2, 4)).shape == (2, out_features) == (2, 256)


def test_an_entry_reads_as_flashs_dictionary() -> None:
    """with_metadata gives an entry that Flash's users index by "fn", "name" and "metadata"."""
    entry = TEMPLATE_BACKBONES.get("mlp-128", with_metadata=True)
    assert entry["fn"] is load_mlp_128
    assert entry["name"] == "mlp-128"
    assert entry["metadata"] == {"namespace": "template/classification"}


def test_flashs_ways_to_register_work() -> None:
    """Bare decorator, call with fn=, partial, and removal."""
    registry = FlashRegistry("backbones")

    @registry
    def my_model() -> None: ...

    registry(fn=load_mlp_128, name="small", namespace="mine")
    registry(functools.partial(load_mlp_128, num_features=3), providers="me")
    assert registry.available_keys() == ["load_mlp_128", "mine/small", "my_model"]
    registry.remove("my_model")
    assert registry.available_keys() == ["load_mlp_128", "mine/small"]


def test_flashs_concat_and_external_registries_work() -> None:
    """a + b is a ConcatRegistry; an ExternalRegistry hands names to its getter."""

    def getter(model: str, **kwargs: Any) -> tuple[nn.Module, int]:
        return nn.Identity(), len(model)

    both = FlashRegistry("a") + ExternalRegistry(getter, "theirs", providers="them", type="external")
    assert isinstance(both, ConcatRegistry)
    assert both.get("resnet")()[1] == 6

"""Checkpoints as training programs write them, and files that are not checkpoints."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from midrib.backbones import BACKBONES, WeightsError, load_backbone
from midrib.backbones._loaders.checkpoints import read_state, unwrapped
from midrib.backbones._torchvision import import_timm
from midrib.backbones.testing import no_network

LITE = "efficientnet-lite0"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n"
needs_timm = pytest.mark.skipif(
    not all(map(find_spec, ("timm", "torchvision"))),
    reason="timm and torchvision are not installed here: MIDRIB_EXTERNAL=1 puts them beside",
)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def zeros(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value * 0 for name, value in state.items()}


LAYOUTS: list[Any] = [
    pytest.param(lambda state: state, id="plain"),
    pytest.param(lambda state: {"state_dict": prefixed(state, "model.")}, id="lightning"),
    pytest.param(
        lambda state: {"state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(3)}},
        id="lightning-with-a-loss",
    ),
    pytest.param(
        lambda state: {"state_dict": {**prefixed(state, "backbone."), "head.weight": torch.ones(2, 3)}}, id="task"
    ),
    pytest.param(lambda state: {"model_state_dict": state, "epoch": 3}, id="model-state-dict"),
    pytest.param(lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)}, id="namespace-beside"),
    pytest.param(lambda state: {"model": state, "best": np.float64(0.5), "out": PosixPath("/x")}, id="numpy-and-path"),
    pytest.param(lambda state: prefixed(state, "module."), id="ddp"),
    pytest.param(lambda state: prefixed(state, "_orig_mod."), id="compiled"),
    pytest.param(lambda state: prefixed(state, "_orig_mod.module."), id="compiled-ddp"),
    pytest.param(lambda state: {"state_dict": prefixed(state, "model._orig_mod.")}, id="lightning-of-compiled"),
    pytest.param(
        lambda state: {name.replace(".", "._orig_mod.", 1): v for name, v in state.items()}, id="compiled-part"
    ),
    pytest.param(
        lambda state: {"model": zeros(state), "model_ema": prefixed(state, "module.")},
        id="averaged-weights-are-preferred",
    ),
    pytest.param(lambda state: {"state_dict": zeros(state), "state_dict_ema": state}, id="timm-averaged"),
    *(
        pytest.param(lambda state, key=key: {"state_dict": zeros(state), key: state}, id=f"averaged-in-{key}")
        for key in ("ema_model", "ema_state_dict", "ema")
    ),
    pytest.param(lambda state: {"params": zeros(state), "params_ema": state}, id="averaged-params"),
    pytest.param(lambda state: {"model": state, "ema": {"updates": torch.tensor(3)}}, id="settings-of-an-average"),
    pytest.param(
        lambda state: {"state_dict": {**prefixed(zeros(state), "model."), **prefixed(state, "ema_model.module.")}},
        id="averaged-beside-in-lightning",
    ),
    pytest.param(
        lambda state: {"classy_state_dict": {"base_model": {"model": {"trunk": state, "heads": {"w": torch.ones(1)}}}}},
        id="vissl",
    ),
    pytest.param(
        lambda state: {"module.queue": torch.ones(2)}
        | prefixed(state, "module.encoder_q.")
        | prefixed(zeros(state), "module.encoder_k."),
        id="moco",
    ),
    pytest.param(lambda state: {"checkpoint": {"network": state}, "epoch": 3}, id="container-in-a-container"),
    pytest.param(lambda state: {"model": state, "random": np.random.get_state()}, id="arrays-of-numpy"),
    pytest.param(lambda state: {"net": state, "optimizer": {"state": {}}, "epoch": 3}, id="container-of-any-name"),
    pytest.param(lambda state: {"params": prefixed(state, "encoder.")}, id="prefix-of-any-name"),
    pytest.param(lambda state: prefixed(state, "student.backbone."), id="two-prefixes-of-any-name"),
    pytest.param(
        lambda state: {**prefixed(state, "student.body."), **{f"loss.{i}": torch.ones(1) for i in range(30)}},
        id="network-among-more-weights-than-its-own",
    ),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_wrappers_are_removed(tmp_path: Path, layout: Any) -> None:
    """The weights are returned under the names of the network, for each program that saved them."""
    state = network().state_dict()
    torch.save(layout(state), tmp_path / "file.pth")
    got = unwrapped(read_state(tmp_path / "file.pth"), state.keys(), source="w.pth")
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], state[name]) for name in state)


def test_a_prefix_of_the_networks_own_stays() -> None:
    """A network's own parts may be called `model` or `backbone`."""
    state = {"model.weight": torch.ones(1)}
    assert unwrapped(state, ["model.weight"], source="w.pth") == state


def test_of_two_unknown_containers_none_is_opened() -> None:
    """Of a generator and a discriminator, it is unknown which is the backbone."""
    assert unwrapped({"g": {"weight": torch.ones(1)}, "d": {"weight": torch.ones(1)}}, ["weight"], source="w.pth") == {}


def test_a_prefix_that_the_library_converts_stays() -> None:
    """OpenAI's CLIP calls its image tower `visual`: timm renames those weights, if it sees the prefix."""
    state = {"visual.conv1.weight": torch.ones(1), "visual.proj": torch.ones(1)}
    assert unwrapped(state, ["patch_embed.proj.weight"], source="w.pth").keys() == state.keys()


def test_of_two_networks_none_is_taken() -> None:
    """Two encoders of unknown names: it is unknown which one is the backbone."""
    state = network().state_dict()
    both = {**prefixed(state, "q."), **prefixed(state, "k.")}
    assert unwrapped(both, state.keys(), source="w.pth") == both


class Loud:
    """An object whose class is not allowed in checkpoints."""


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"args": argparse.Namespace(hook=os.system)}, id="function-in-a-namespace"),
        pytest.param({"args": argparse.Namespace(other=Loud())}, id="object-in-a-namespace"),
    ],
)
def test_a_namespace_holds_plain_values_only(tmp_path: Path, content: dict[str, Any]) -> None:
    """Allowing the class does not allow its content."""
    torch.save({"model": network().state_dict(), **content}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="file.pth is not a checkpoint that can be read safely"):
        read_state(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"Repository Not Found", "holds text, such as the error page", id="text"),
        pytest.param(b"hello\nworld\n", "holds text, such as the error page", id="lines"),
        pytest.param(b"<!DOCTYPE html>\n<html>", "holds text, such as the error page", id="html"),
        pytest.param(LFS_POINTER, "Git LFS pointer, run `git lfs pull`", id="lfs-pointer"),
        pytest.param(b"", "it is empty, download it again", id="empty"),
        pytest.param(bytes(range(256)), "save its state dict as safetensors", id="noise"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "bin"])
def test_a_file_that_is_not_weights_is_named_with_its_kind(
    tmp_path: Path, content: bytes, message: str, suffix: str
) -> None:
    """Failed downloads leave such files; the error says which file it is and what to do."""
    (tmp_path / f"file.{suffix}").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"file.{suffix} is not a checkpoint .*{message}"):
        BACKBONES.load(LITE, checkpoint=tmp_path / f"file.{suffix}")


def test_safetensors_that_are_cut_short_are_named(tmp_path: Path) -> None:
    """The error names the file of an interrupted download."""
    (tmp_path / "file.safetensors").write_bytes(save(network().state_dict())[:-8])
    with pytest.raises(WeightsError, match="file.safetensors is not a checkpoint .*damaged or cut short"):
        read_state(tmp_path / "file.safetensors")


def test_safetensors_are_read_under_any_name(tmp_path: Path) -> None:
    """The content decides, not the suffix."""
    (tmp_path / "file.bin").write_bytes(save(network().state_dict()))
    assert read_state(tmp_path / "file.bin").keys() == network().state_dict().keys()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({1: torch.zeros(2)}, id="numbers-as-names"),
        pytest.param([torch.zeros(2)], id="list"),
        pytest.param(torch.zeros(2), id="tensor"),
    ],
)
def test_a_file_without_names_holds_no_state_dict(tmp_path: Path, content: Any) -> None:
    """The error says what to save instead."""
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"file.pth holds no state dict.*save module.state_dict\(\)"):
        read_state(tmp_path / "file.pth")


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    """The network keeps its own dtype, so that a Task can train a head on its features."""
    module, _ = BACKBONES.load(LITE, pretrained=False)
    save_file({name: half(value) for name, value in module.net.state_dict().items()}, tmp_path / "half.safetensors")
    loaded, _ = BACKBONES.load(LITE, checkpoint=tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    """Integers without their scales are not the weights."""
    module, _ = BACKBONES.load(LITE, pretrained=False)
    save_file(
        {name: value.to(torch.int8) for name, value in module.net.state_dict().items()}, tmp_path / "q.safetensors"
    )
    with pytest.raises(
        WeightsError, match="q.safetensors do not fit .* have as other numbers than floats _blocks.0._bn1.bias"
    ):
        BACKBONES.load(LITE, checkpoint=tmp_path / "q.safetensors")


def half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def resnet() -> dict[str, Tensor]:
    return dict(import_timm().create_model("resnet18", num_classes=7).state_dict())


@needs_timm
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(lambda state: {"state_dict": prefixed(state, "model.")}, id="lightning"),
        pytest.param(lambda state: prefixed(state, "_orig_mod."), id="compiled"),
        pytest.param(lambda state: {"model_state_dict": state}, id="model-state-dict"),
        pytest.param(lambda state: prefixed(state, "module."), id="ddp"),
        pytest.param(lambda state: {name: half(value) for name, value in state.items()}, id="half-precision"),
    ],
)
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_catalogues_model_gets_the_files_weights(tmp_path: Path, library: str, layout: Any) -> None:
    """Never random ones with a warning in a log."""
    state = resnet()
    torch.save(layout(state), tmp_path / "file.pth")
    with no_network():
        module = load_backbone(f"{library}/resnet18", checkpoint=tmp_path / "file.pth").module
    assert all(torch.allclose(value, state[name], atol=1e-2) for name, value in module.state_dict().items())


def quantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(torch.int8) for name, value in state.items() if name.startswith("layer1.")}


def without(state: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(start)}


@needs_timm
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda s: without(s, "layer4"), "they lack layer4.0.bn1.bias.* and 22 more", id="missing-layer"),
        pytest.param(lambda s: without(s, "layer4.1.bn2"), r"they lack layer4.1.bn2.bias", id="missing-norm"),
        pytest.param(lambda s: s | {"layer4.9.w": torch.ones(1)}, "have besides layer4.9.w", id="another-depth"),
        pytest.param(lambda _: {"foo": torch.zeros(1)}, "they lack bn1.bias", id="nothing-of-it"),
        pytest.param(lambda s: s | quantised(s), "have as other numbers than floats layer1", id="quantised"),
        pytest.param(lambda _: {"epoch": 3}, "holds no tensors by their names", id="no-weights"),
    ],
)
def test_timm_demands_every_weight(tmp_path: Path, change: Any, message: str) -> None:
    """The error names the file and the weights."""
    torch.save(change(resnet()), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=rf"file.pth .*{message}"):
        BACKBONES.load("timm/resnet18", checkpoint=tmp_path / "file.pth")


@needs_timm
def test_timm_itself_is_left_as_it_was(tmp_path: Path) -> None:
    """The check is in force only while a backbone loads."""
    builder = __import__("timm.models._builder", fromlist=["load_pretrained"])
    before = builder.load_pretrained
    torch.save({"foo": torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="they lack"):
        BACKBONES.load("timm/resnet18", checkpoint=tmp_path / "file.pth")
    assert builder.load_pretrained is before

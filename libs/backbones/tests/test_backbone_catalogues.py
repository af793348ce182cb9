"""timm's and torchvision's models under their own names, on checkpoints in the families' own formats."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from midrib.backbones import BACKBONES, Backbone, WeightsError, load_backbone
from midrib.backbones._torchvision import import_timm, import_torchvision
from midrib.backbones.testing import assert_conforms, no_network

WHY = "timm and torchvision are not installed here: pip install --no-deps timm torchvision"
needs_both = pytest.mark.skipif(not all(map(importlib.util.find_spec, ("timm", "torchvision"))), reason=WHY)


def test_another_failure_of_torchvision_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the one known failure, of a CUDA build beside a CPU torch, is worked around."""

    def broken(name: str) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        import_torchvision()


@pytest.mark.parametrize("key", ["timm/resnet18", "torchvision/resnet18"])
def test_without_the_library_the_error_gives_its_install_line(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A catalogue that is not installed is still known by name."""
    monkeypatch.setattr("midrib.registry._contract._is_installed", lambda name: name not in ("timm", "torchvision"))
    with pytest.raises(KeyError, match="pip install .*torchvision"):
        BACKBONES.load(key)


@needs_both
@pytest.mark.parametrize(
    "key",
    [
        "timm/resnet18",
        "timm/vit_tiny_patch16_224",
        "timm/mobilenetv3_small_050",
        "timm/convnext_atto",
        "torchvision/resnet18",
        "torchvision/squeezenet1_1",
        "torchvision/mobilenet_v3_small",
        "torchvision/shufflenet_v2_x0_5",
    ],
)
def test_a_librarys_model_conforms(key: str) -> None:
    """Without its classifier, pooled, and built without the network."""
    assert key in BACKBONES
    assert_conforms(key, pretrained=False)


@needs_both
@pytest.mark.parametrize("key", ["timm/resnet18.a1_in1k", "torchvision/resnet18", "clip_vitb32", "dinov2_vits14"])
def test_weights_that_cannot_be_fetched_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> None:
    """Never a network of random weights in their place."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with (
        no_network(),
        pytest.raises(WeightsError, match="could not be fetched .*checkpoint=PATH"),
    ):
        BACKBONES.load(key)


def loaded(key: str, **kwargs: Any) -> Backbone:
    with no_network():
        return load_backbone(key, **kwargs)


def same_features(one: Backbone, other: Backbone) -> bool:
    size = one.input.size  # type: ignore[union-attr]
    images = torch.randn(1, 3, size, size)
    return torch.equal(one.embed(images), other.embed(images))


@needs_both
def test_timms_own_checkpoint_loads_with_its_classifier(tmp_path: Path) -> None:
    """As timm saves it, for ImageNet's 1000 classes; the classifier is dropped."""
    first = loaded("timm/resnet18", pretrained=False)
    state = first.module.state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    save_file(state, tmp_path / "resnet.safetensors")
    assert same_features(first, loaded("timm/resnet18", checkpoint=tmp_path / "resnet.safetensors"))


@needs_both
def test_torchvisions_own_checkpoint_loads_with_its_classifier(tmp_path: Path) -> None:
    """As torchvision saves it, of any number of classes."""
    first = loaded("torchvision/resnet18", pretrained=False)
    state = first.module.state_dict() | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    torch.save(state, tmp_path / "resnet.pth")
    assert same_features(first, loaded("torchvision/resnet18", checkpoint=tmp_path / "resnet.pth"))


@needs_both
@pytest.mark.parametrize("key", ["timm/resnet18", "torchvision/resnet18"])
def test_another_models_checkpoint_does_not_load(tmp_path: Path, key: str) -> None:
    """The error names the file and the model."""
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other.safetensors do(es)? not fit"):
        BACKBONES.load(key, checkpoint=tmp_path / "other.safetensors")


@needs_both
def test_dinov2s_published_checkpoint_loads(tmp_path: Path) -> None:
    """As `dinov2_vits14_pretrain.pth` holds it: with a mask token that only training uses."""
    first = loaded("dinov2_vits14", pretrained=False)
    torch.save(first.module.state_dict() | {"mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2.pth")
    assert same_features(first, loaded("dinov2_vits14", checkpoint=tmp_path / "dinov2.pth"))


CLIP_NAMES = (
    ("blocks.", "transformer.resblocks."),
    (".norm1.", ".ln_1."),
    (".norm2.", ".ln_2."),
    (".attn.qkv.", ".attn.in_proj_"),
    (".attn.proj.", ".attn.out_proj."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    ("norm_pre.", "ln_pre."),
    ("patch_embed.proj.", "conv1."),
)


def as_openai(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image tower as OpenAI's CLIP names it, beside a text tower that is not ours to load."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for ours, theirs in CLIP_NAMES:
            name = name.replace(ours, theirs)
        renamed[name] = value
    renamed["ln_post.weight"], renamed["ln_post.bias"] = renamed.pop("norm.weight"), renamed.pop("norm.bias")
    renamed["proj"] = renamed.pop("head.weight").T.contiguous()
    renamed["class_embedding"] = renamed.pop("cls_token")[0, 0].contiguous()
    renamed["positional_embedding"] = renamed.pop("pos_embed")[0].contiguous()
    tower = {f"visual.{name}": value for name, value in renamed.items()}
    return tower | {"logit_scale": torch.zeros(()), "token_embedding.weight": torch.zeros(4, 4)}


@needs_both
def test_clips_published_checkpoint_loads(tmp_path: Path) -> None:
    """As OpenAI and open_clip publish it, projection included: 512 features, not the 768 before it."""
    first = loaded("clip_vitb32", pretrained=False)
    torch.save(as_openai(first.module.state_dict()), tmp_path / "clip.pt")
    second = loaded("clip_vitb32", checkpoint=tmp_path / "clip.pt")
    images = torch.randn(1, 3, 224, 224)
    # OpenAI's projection has no bias: ours is zero after loading it, as it was before.
    assert torch.allclose(first.embed(images), second.embed(images), atol=1e-6)


PHOTOS = ("chelsea", "coffee", "astronaut")


@needs_both
@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_base_patch16_224.dino", "tf_efficientnet_lite0.in1k"])
def test_preprocessing_equals_timms(name: str) -> None:
    """Photographs come within one level of 255 of timm's own evaluation transform."""
    backbone = loaded(f"timm/{name}", pretrained=False)
    timm = import_timm()
    images = [Image.fromarray(getattr(skimage.data, photo)()) for photo in PHOTOS]
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=backbone.module))
    assert_within_a_level(backbone, images, torch.stack([transform(image) for image in images]))


@needs_both
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_preprocessing_equals_torchvisions(name: str) -> None:
    """Photographs come within one level of 255 of torchvision's preset on PIL images."""
    backbone = loaded(f"torchvision/{name}", pretrained=False)
    preset = import_torchvision().models.get_model_weights(name).DEFAULT.transforms()
    images = [Image.fromarray(getattr(skimage.data, photo)()) for photo in PHOTOS]
    assert_within_a_level(backbone, images, torch.stack([preset(image) for image in images]))


def assert_within_a_level(backbone: Backbone, images: list[Image.Image], expected: Tensor) -> None:
    levels = 255 * np.array(backbone.input.std).reshape(3, 1, 1)  # type: ignore[union-attr]
    difference = np.abs((backbone.prepare_images(images) - expected).numpy()) * levels
    assert float(difference.max()) <= 1.001

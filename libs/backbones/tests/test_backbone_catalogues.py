"""Models of timm and torchvision under their own names, with checkpoints in the libraries' formats."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
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
from midrib.backbones._contract import check_output
from midrib.backbones._torchvision import import_timm, import_torchvision
from midrib.backbones.testing import assert_conforms, no_network

WHY = "timm and torchvision are not installed here: MIDRIB_EXTERNAL=1 puts them beside"
THERE = all(map(importlib.util.find_spec, ("timm", "torchvision")))
needs_both = pytest.mark.skipif(not THERE, reason=WHY)


def test_another_failure_of_torchvision_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the known failure, of a CUDA build next to a CPU torch, is worked around."""

    def broken(name: str) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        import_torchvision()


@needs_both
@pytest.mark.parametrize("key", ["all-minilm-l6-v2", "whisper-tiny"])
def test_a_model_of_transformers_loads_beside_a_torchvision_that_does_not_fit_torch(key: str) -> None:
    """Checked in a new process, because importing transformers' models would fail there without the workaround."""
    code = f"from midrib.backbones import load_backbone; print(load_backbone({key!r}, pretrained=False).num_features)"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("384", "")


@pytest.mark.parametrize("key", ["timm/resnet18", "torchvision/resnet18"])
def test_without_the_library_the_error_gives_its_install_line(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Names of a library that is not installed are still known."""
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
    """It is loaded without classifier, pooled, and without using the network."""
    assert key in BACKBONES
    assert_conforms(key, pretrained=False)


def family_examples() -> list[str]:
    """Return a model of every module of timm, and of every family of torchvision."""
    if not THERE:
        return ["timm/resnet18", "torchvision/resnet18"]
    timm = import_timm()
    first = [timm.list_models(module=module)[:1] for module in timm.list_modules()]
    torchvision_names = (
        "alexnet convnext_tiny densenet121 efficientnet_b0 maxvit_t mnasnet0_5 swin_v2_t vgg11 vit_b_16".split()
    )
    return [f"timm/{name}" for names in first for name in names] + [f"torchvision/{name}" for name in torchvision_names]


@needs_both
@pytest.mark.parametrize("key", family_examples())
def test_every_family_of_a_library_keeps_the_contract(key: str) -> None:
    """One row of num_features per image, checked by shapes alone on the meta device."""
    entry = BACKBONES.get(key, with_metadata=True)
    with no_network(), torch.device("meta"):
        module, num_features = entry.load(pretrained=False)
        check_output(key, module.eval(), num_features, module.input)


@needs_both
@pytest.mark.parametrize("key", ["timm/resnet18.a1_in1k", "torchvision/resnet18", "clip_vitb32", "dinov2_vits14"])
def test_weights_that_cannot_be_fetched_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> None:
    """They are not replaced by random ones."""
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


def same_features(first: Backbone, second: Backbone) -> bool:
    size = first.input.size  # type: ignore[union-attr] # all of these take images
    images = torch.randn(1, 3, size, size)
    return torch.equal(first.embed(images), second.embed(images))


@needs_both
def test_timms_own_checkpoint_loads_with_its_classifier(tmp_path: Path) -> None:
    """A file with 1000 classes of ImageNet, as timm saves it, loads without its classifier."""
    first = loaded("timm/resnet18", pretrained=False)
    state = first.module.state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    save_file(state, tmp_path / "resnet.safetensors")
    assert same_features(first, loaded("timm/resnet18", checkpoint=tmp_path / "resnet.safetensors"))


@needs_both
def test_torchvisions_own_checkpoint_loads_with_its_classifier(tmp_path: Path) -> None:
    """A file with any number of classes, as torchvision saves it, loads without its classifier."""
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
    levels = 255 * np.array(backbone.input.std).reshape(3, 1, 1)  # type: ignore[union-attr] # it takes images
    difference = np.abs((backbone.prepare_images(images) - expected).numpy()) * levels
    assert float(difference.max()) <= 1.001


@needs_both
def test_a_name_that_timm_has_given_up_opens_with_one_warning() -> None:
    """The warning is ours, and gives the new name."""
    with pytest.warns(DeprecationWarning, match="is an old name .*: use .*vit_tiny_patch16_224.augreg_in21k"):
        assert load_backbone("timm/vit_tiny_patch16_224_in21k", pretrained=False).num_features == 192


@needs_both
@pytest.mark.parametrize(
    ("key", "licence"),
    [("timm/resnet18.a1_in1k", "apache-2.0"), ("torchvision/resnet18", "BSD-3-Clause")],
)
def test_models_of_catalogues_declare_their_input_width_and_licence(key: str, licence: str) -> None:
    """The declarations are those of the loaded model, and nothing is built for them."""
    described = BACKBONES.describe(key)
    assert described.license == licence
    loaded = load_backbone(key, pretrained=False)
    assert (described.input, described.num_features) == (loaded.input, loaded.num_features)


@needs_both
def test_every_model_of_a_catalogue_declares_its_width() -> None:
    """If one is missing here, run build-support/catalogue_widths.py: the library has new models."""
    entries = [*BACKBONES.list("timm/*"), *BACKBONES.list("torchvision/*")]
    assert [entry.key for entry in entries if entry.num_features is None] == []


@needs_both
def test_an_option_of_timm_may_change_the_width() -> None:
    """The declared width is that without options."""
    with torch.device("meta"):
        _, width = BACKBONES.load("timm/resnet18", pretrained=False, num_classes=7)
    assert (BACKBONES.describe("timm/resnet18").num_features, width) == (512, 7)

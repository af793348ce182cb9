"""Pixels of uint8 give an image backbone the same features as floats, to the bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from midrib.backbones import Backbone, InputKindError, MediaError, load_backbone
from midrib.backbones._pixels.normalize import normalized
from midrib.registry import ImageInput, TensorInput

IMAGENET = ImageInput(4)
LITE = ImageInput(4, (127 / 255,) * 3, (128 / 255,) * 3)
PHOTOGRAPH = Image.effect_mandelbrot((50, 40), (-2, -1, 1, 1), 30).convert("RGB")
LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)


class Flattened(nn.Module):
    """Returns its input, flattened."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def backbone(spec: ImageInput | TensorInput = IMAGENET) -> Backbone:
    return Backbone("x", Flattened(), 48, spec)


def test_images_are_decoded_to_pixels_without_torch() -> None:
    """A server's process decodes while its workers compute, and never needs torch."""
    program = (
        "import sys, numpy\n"
        "from midrib.backbones import Backbone\n"
        "from midrib.registry import ImageInput\n"
        "pixels = Backbone('x', None, 1, ImageInput(4)).image_pixels([numpy.zeros((8, 9, 3), 'uint8')])\n"
        "print(pixels.shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 3, 4, 4) False"


@pytest.mark.parametrize("spec", [pytest.param(IMAGENET, id="imagenet"), pytest.param(LITE, id="efficientnet-lite")])
def test_every_level_is_rounded_as_ieee_division_rounds_it(spec: ImageInput) -> None:
    """Two divisions and a subtraction in float32, each rounded once: every device can compute these bits."""
    levels = LEVELS.numpy().astype(np.float32)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    expected = (levels / np.float32(255) - mean) / std
    np.testing.assert_array_equal(normalized(LEVELS, spec).numpy(), expected)


@pytest.fixture()
def _float64_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_float64_by_default")
def test_the_default_dtype_of_torch_does_not_change_the_bits() -> None:
    """The arithmetic is float32 in a process whose default dtype is float64 too."""
    rows = normalized(LEVELS, IMAGENET)
    assert rows.dtype == torch.float32
    assert rows[0, 0, 0, 1] == np.float32((np.float32(1) / np.float32(255) - np.float32(0.485)) / np.float32(0.229))


def test_normalised_pixels_are_contiguous_and_leave_the_pixels_as_they_are() -> None:
    """Decoders give channels last; a module's bits may depend on the memory format."""
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    copied = pixels.clone()
    assert normalized(pixels, IMAGENET).is_contiguous()
    assert torch.equal(pixels, copied)


def test_images_give_the_same_features_as_pixels_and_as_floats() -> None:
    """`prepare_pixels`, `prepare_images` and `embed_images` are one function."""
    photographs, images = [PHOTOGRAPH.rotate(30), PHOTOGRAPH], backbone()
    pixels = images.prepare_pixels(photographs)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (2, *IMAGENET.pixels.shape))
    assert torch.equal(images.embed(pixels), images.embed(images.prepare_images(photographs)))
    assert torch.equal(images.embed(pixels), images.embed_images(photographs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bfloat16", "float64"])
def test_pixels_reach_the_module_in_its_own_precision(dtype: torch.dtype) -> None:
    """They are normalised in float32 and then converted, as floats from a client are."""
    loaded = load_backbone("image/classification/efficientnet-lite0", pretrained=False)
    assert isinstance(loaded.input, ImageInput)
    narrow = Backbone(loaded.name, loaded.module.to(dtype), loaded.num_features, loaded.input)
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    assert torch.equal(narrow.embed(pixels), narrow.embed(normalized(pixels, loaded.input)))


def test_the_pixels_of_an_unusable_image_are_refused_by_its_index() -> None:
    """The error is that of `prepare_images`."""
    with pytest.raises(MediaError, match=r"item 1.*not an image of a known format"):
        backbone().prepare_pixels([PHOTOGRAPH, b"no image"])


def test_a_backbone_of_rows_prepares_no_pixels() -> None:
    """The error names the input that it takes."""
    with pytest.raises(InputKindError, match="got image"):
        backbone(TensorInput((48,))).prepare_pixels([PHOTOGRAPH])

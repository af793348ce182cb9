"""Every kind of image has one defined result."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from midrib.backbones import MediaError
from midrib.backbones._images import MAX_PIXELS, prepare_images, resize_and_crop
from midrib.registry import ImageInput

# Size 4, whole image, no normalisation: a row is the picture itself, on the 0..1 scale.
PLAIN = ImageInput(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", 1.0)
RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def solid(colour: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, colour)


def colour_of(*media: bytes | Image.Image | npt.NDArray[np.generic]) -> list[int]:
    """Return the colour of the first pixel of the first row, 0..255."""
    return [round(float(level) * 255) for level in prepare_images(media, PLAIN)[0, :, 0, 0]]


def test_bytes_pil_and_array_give_the_same_row() -> None:
    """The form in which an image is passed does not change the row."""
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    rows = prepare_images([encoded(image), image, array], ImageInput(16))
    assert rows.shape == (3, 3, 16, 16)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_one_picture_that_is_not_in_a_list_is_refused() -> None:
    """Its rows would be read as grey pictures of width 3; a client refuses it too."""
    with pytest.raises(MediaError, match=r"shape \[20, 30, 3\].*for one picture pass images=\[array\]"):
        prepare_images(np.zeros((20, 30, 3), np.uint8), PLAIN)  # type: ignore[arg-type] # the mistake


def test_no_images_give_an_empty_batch() -> None:
    """An empty list gives an empty batch of the right trailing shape."""
    assert prepare_images([], PLAIN).shape == (0, 3, 4, 4)


def test_normalisation_is_the_specs() -> None:
    """A row is (level / 255 - mean) / std, with one mean and std per channel."""
    spec = ImageInput(4, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0), "bilinear", 1.0)
    row = prepare_images([solid((51, 102, 255))], spec)[0, :, 0, 0]
    assert row.tolist() == pytest.approx([(0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (1.0 - 0.3) / 2.0])


GREY16 = np.full((8, 8), 0x80FF, dtype=np.uint16)
ANIMATED = encoded(solid(RED), "GIF", save_all=True, append_images=[solid(GREEN)])
ANIMATED_WEBP = encoded(solid(RED), "WEBP", save_all=True, append_images=[solid(GREEN)], lossless=True)
ANIMATED_PNG = encoded(solid(RED), "PNG", save_all=True, append_images=[solid(GREEN)])
HIDDEN = Image.new("RGBA", (8, 8), (10, 20, 30, 0))


@pytest.mark.parametrize(
    ("media", "colour"),
    [
        pytest.param(encoded(Image.new("L", (8, 8), 77)), [77, 77, 77], id="greyscale"),
        pytest.param(np.full((8, 8), 77, np.uint8), [77, 77, 77], id="greyscale-array"),
        pytest.param(encoded(Image.new("1", (8, 8), 1)), [255, 255, 255], id="bilevel"),
        pytest.param(encoded(solid(RED).quantize(2)), [255, 0, 0], id="palette"),
        pytest.param(encoded(HIDDEN), [255, 255, 255], id="transparent-is-white"),
        pytest.param(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 51))), [255, 204, 204], id="translucent-over-white"),
        pytest.param(encoded(Image.new("LA", (8, 8), (0, 0))), [255, 255, 255], id="grey-alpha"),
        pytest.param(
            encoded(Image.new("P", (8, 8), 0), transparency=0), [255, 255, 255], id="palette-with-transparent-colour"
        ),
        pytest.param(np.array([[[9, 9, 9, 0]]], np.uint8), [255, 255, 255], id="rgba-array"),
        pytest.param(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), [255, 0, 0], id="cmyk"),
        pytest.param(
            encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), [255, 0, 0], id="cmyk-jpeg"
        ),
        pytest.param(encoded(Image.fromarray(GREY16)), [128, 128, 128], id="16-bit"),
        pytest.param(GREY16, [128, 128, 128], id="16-bit-array"),
        pytest.param(Image.new("I", (8, 8), 0x80FF), [128, 128, 128], id="16-bit-in-32"),
        pytest.param(ANIMATED, [255, 0, 0], id="animation-first-frame"),
        pytest.param(ANIMATED_WEBP, [255, 0, 0], id="animated-webp-first-frame"),
        pytest.param(ANIMATED_PNG, [255, 0, 0], id="animated-png-first-frame"),
        pytest.param(encoded(Image.new("RGB", (1, 1), GREEN)), [0, 255, 0], id="one-pixel"),
        pytest.param(np.zeros((1, 60000, 3), np.uint8), [0, 0, 0], id="one-by-sixty-thousand"),
    ],
)
def test_each_kind_of_image_has_one_result(
    media: bytes | Image.Image | npt.NDArray[np.generic], colour: list[int]
) -> None:
    """Grey, palette, CMYK, 16 bits, transparency and animation become 8-bit RGB in one defined way."""
    assert colour_of(media) == colour


def test_colours_under_transparency_do_not_matter() -> None:
    """Two pictures that look the same give the same row, for any colour of the invisible pixels."""
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    blue = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    rows = prepare_images([red, blue], PLAIN)
    assert torch.equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        pytest.param(1, "top-left", id="1-upright"),
        pytest.param(2, "top-right", id="2-mirrored"),
        pytest.param(3, "bottom-right", id="3-half-turn"),
        pytest.param(4, "bottom-left", id="4-flipped"),
        pytest.param(5, "top-left", id="5-transposed"),
        pytest.param(6, "top-right", id="6-quarter-turn"),
        pytest.param(7, "bottom-right", id="7-transversed"),
        pytest.param(8, "bottom-left", id="8-three-quarters"),
    ],
)
def test_exif_orientation_turns_the_image(orientation: int, corner: str) -> None:
    """Photographs of a camera held sideways are turned upright."""
    picture = solid(BLACK, size=(4, 4))
    picture.putpixel((0, 0), WHITE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    row = prepare_images([encoded(picture, exif=exif)], PLAIN)[0, 0]
    corners = {"top-left": row[0, 0], "top-right": row[0, 3], "bottom-left": row[3, 0], "bottom-right": row[3, 3]}
    assert corners[corner] == 1


def bomb() -> bytes:
    """Return a PNG of a few bytes that declares 60000 x 60000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("media", "message"),
    [
        pytest.param(b"", "not an image of a known format", id="empty"),
        pytest.param(b"not an image", "not an image of a known format: send one of JPEG, PNG", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image of a known format", id="postscript"),
        pytest.param(encoded(NOISE)[:2000], "broken or cut short", id="truncated-png"),
        pytest.param(encoded(NOISE, "JPEG")[:1500], "broken or cut short", id="truncated-jpeg"),
        pytest.param(bomb(), f"more than {MAX_PIXELS} pixels", id="bomb"),
        pytest.param(np.zeros((9500, 9500), np.uint8), f"more than {MAX_PIXELS} pixels", id="huge-array"),
        pytest.param(np.zeros((8, 8), np.float32), "array of float32, expected uint8 or uint16", id="float-array"),
        pytest.param(
            np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\), expected \[height, width\]", id="channels-first"
        ),
        pytest.param(np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)", id="empty-array"),
        pytest.param(Image.new("F", (8, 8)), "floating pixels", id="float-image"),
        pytest.param("cat.jpg", "got the path 'cat.jpg', .*: pass Path.*read_bytes", id="a-path"),
        pytest.param(7, "got int, expected bytes, a PIL image or a numpy array", id="a-number"),
    ],
)
def test_an_unusable_image_is_an_error_of_that_item(media: object, message: str) -> None:
    """The error names the item and says what to do."""
    with pytest.raises(MediaError, match=f"item 1: .*{message}") as caught:
        prepare_images([solid(RED), media], PLAIN)  # type: ignore[list-item] # wrong on purpose
    assert caught.value.index == 1


@pytest.mark.parametrize(
    "image",
    [solid(RED), encoded(NOISE), bytearray(encoded(NOISE)), "cat.jpg", Path("cat.jpg")],
    ids=lambda image: type(image).__name__,
)
def test_one_image_in_place_of_a_list_is_refused(image: object) -> None:
    """The bytes of a file are not read as a list of numbers."""
    with pytest.raises(TypeError, match=r"got .* of type \w+, expected a list of images"):
        prepare_images(image, PLAIN)  # type: ignore[arg-type] # wrong on purpose


def reference(image: Image.Image, spec: ImageInput) -> npt.NDArray[np.int16]:
    """Return the image resized and cropped in two steps, as torchvision's transforms do it: [size, size, 3]."""
    shorter = int(spec.size // spec.crop)
    width, height = image.size
    scale = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    scaled = image.resize(scale, Image.Resampling.BICUBIC)
    left, top = round((scale[0] - spec.size) / 2.0), round((scale[1] - spec.size) / 2.0)
    return np.asarray(scaled.crop((left, top, left + spec.size, top + spec.size)), dtype=np.int16)


@pytest.mark.parametrize("photo", ["chelsea", "coffee", "astronaut", "rocket"])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
def test_photographs_are_resized_as_by_the_reference(photo: str, crop: float) -> None:
    """The same bytes as from resizing the whole image and then cropping it."""
    image = Image.fromarray(getattr(skimage.data, photo)())
    spec = ImageInput(224, crop=crop)
    assert np.array_equal(np.asarray(resize_and_crop(image, spec)), reference(image, spec))


def photograph(name: str = "chelsea") -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (64, 64)], ids=["wide", "tall", "square"])
def test_a_squashed_image_is_resized_whole(size: tuple[int, int]) -> None:
    """The whole image is resized to a square, as in SigLIP's pipeline."""
    image = photograph().resize(size)
    resized = resize_and_crop(image, ImageInput(32, crop=1.0, squash=True))
    assert np.array_equal(np.asarray(resized), np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)))


def test_a_squashed_image_may_be_cropped() -> None:
    """The centre of the image resized to floor(size / crop)."""
    image = photograph()
    two_steps = image.resize((40, 40), Image.Resampling.BICUBIC).crop((4, 4, 36, 36))
    resized = resize_and_crop(image, ImageInput(32, crop=0.8, squash=True))
    assert np.array_equal(np.asarray(resized), np.asarray(two_steps))


@settings(max_examples=60)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    crop=st.sampled_from([0.875, 0.882, 0.9, 0.95, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_any_shape_is_resized_as_by_the_reference(width: int, height: int, crop: float, seed: int) -> None:
    """The same bytes for images of any size and aspect, of noise too."""
    image = noise(width, height, seed)
    spec = ImageInput(32, interpolation="bicubic", crop=crop)
    assert np.array_equal(np.asarray(resize_and_crop(image, spec)), reference(image, spec))


@pytest.mark.parametrize("crop", [0.875, 1.0])
@pytest.mark.parametrize("size", [(3, 700), (1500, 11), (7, 5000), (3000, 20), (1, 900), (500, 1)], ids=str)
def test_a_very_long_image_is_resized_within_a_level_of_the_reference(size: tuple[int, int], crop: float) -> None:
    """Only its kept part is computed."""
    image = noise(*size, seed=0)
    resized = np.asarray(resize_and_crop(image, ImageInput(224, crop=crop)), dtype=np.int16)
    assert int(np.abs(resized - reference(image, ImageInput(224, crop=crop))).max()) <= 1


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_an_unknown_interpolation_is_named() -> None:
    """The error lists the known interpolations."""
    with pytest.raises(MediaError, match="unknown interpolation 'nearest' in the input spec: use bicubic, bilinear"):
        prepare_images([solid(RED)], ImageInput(4, interpolation="nearest"))

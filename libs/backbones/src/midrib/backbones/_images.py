"""Encoded, decoded or array images to the tensor that an image backbone takes.

Every kind of image has one answer: orientation is taken from EXIF, transparency is laid over white, 16 bits
become 8, an animation is its first frame, and grey, palette and CMYK become RGB. Colour profiles are not applied.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from midrib.backbones._errors import MediaError
from midrib.registry import ImageInput

ImageMedia: TypeAlias = bytes | Image.Image | npt.NDArray[np.generic]

# Pillow's own bound, beyond which it warns of a decompression bomb: here it refuses.
MAX_PIXELS = 89_478_485

# Only what people send as photographs: Pillow's other readers include a PostScript interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_WHITE = (255, 255, 255, 255)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def prepare_images(images: Sequence[ImageMedia], spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Turn images into one batch: [rows, 3, spec.size, spec.size], float32, normalised as spec says.

    images: encoded bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM), PIL images, or arrays of uint8 or uint16 shaped
    [height, width], [height, width, 3] (RGB) or [height, width, 4] (RGBA).
    max_pixels: of one image, known before it is decoded.
    Raises MediaError, with the item's index, for the first that is none of these or cannot be decoded.
    """
    if not images:
        return torch.zeros(0, 3, spec.size, spec.size)
    pixels = torch.from_numpy(np.stack([_row(index, image, spec, max_pixels) for index, image in enumerate(images)]))
    scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
    std = torch.tensor(spec.std).view(1, 3, 1, 1)
    return ((scaled - mean) / std).contiguous()


def _row(index: int, image: ImageMedia, spec: ImageInput, max_pixels: int) -> npt.NDArray[np.uint8]:
    """One image as [size, size, 3]; every failure names the item."""
    try:
        return np.asarray(resize_and_crop(_rgb(_upright(_opened(image, max_pixels))), spec), dtype=np.uint8)
    except Exception as error:
        # Decoders meet hostile bytes and raise nearly anything; whatever it is, this item is the cause.
        raise MediaError(index, _explained(error, max_pixels)) from error


def _explained(error: Exception, max_pixels: int) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"the image has more than {max_pixels} pixels, the limit: send a smaller one"
    if isinstance(error, _UnusableImageError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"these bytes are no image of a known format: send one of {', '.join(FORMATS)}"
    # What the decoder said is the cause of the error, for those in process: a server quotes no exceptions.
    return "the image is broken or cut short: send it again, whole"


class _UnusableImageError(ValueError):
    """An image that we refuse by our own rule; its text is the answer."""


def _opened(image: ImageMedia, max_pixels: int) -> Image.Image:
    if isinstance(image, bytes | bytearray | memoryview):
        opened: Image.Image = Image.open(io.BytesIO(image), formats=FORMATS)
    elif isinstance(image, np.ndarray):
        opened = _from_array(image)
    elif isinstance(image, Image.Image):
        opened = image
    else:
        raise _UnusableImageError(f"got {type(image).__name__}, expected bytes, a PIL image or a numpy array")
    if opened.width * opened.height > max_pixels:
        raise Image.DecompressionBombError
    return opened


def _from_array(array: npt.NDArray[np.generic]) -> Image.Image:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not shaped or 0 in array.shape:
        raise _UnusableImageError(
            f"got an array of shape {array.shape}, expected [height, width], [height, width, 3] or [height, width, 4]"
        )
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) * 255 + 32767) // 65535
    elif array.dtype != np.uint8:
        raise _UnusableImageError(
            f"got an array of {array.dtype}, expected uint8 or uint16: scale it to 0..255 and convert it"
        )
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation asks."""
    image.load()
    turned = ImageOps.exif_transpose(image)
    return image if turned is None else turned


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise _UnusableImageError("got an image of floating pixels, expected 8 or 16 bits a channel: convert it")
    if image.mode.startswith("I"):
        # Pillow's own conversion would clip at 255, that is, turn nearly everything white.
        levels = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        return _from_array(levels).convert("RGB")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, _WHITE)
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def resize_and_crop(image: Image.Image, spec: ImageInput) -> Image.Image:
    """Scale the shorter side (if the spec says squash: both) to floor(size / crop) and keep the size x size centre.

    The two steps are one call: only the pixels that are kept are computed, so an image of 1 x 60000 costs no more than
    another. Photographs differ from the two steps by at most one level of 255; white noise by up to 25, for Pillow
    chooses the order of its two passes by the size asked for.
    Source: torchvision's Resize and CenterCrop, as timm's evaluation transform composes them.
    """
    shorter = math.floor(spec.size / spec.crop)
    width, height = image.size
    scaled_width, scaled_height = (shorter, shorter) if spec.squash else _scaled(width, height, shorter)
    left = round((scaled_width - spec.size) / 2.0) * width / scaled_width
    top = round((scaled_height - spec.size) / 2.0) * height / scaled_height
    right = min(float(width), left + spec.size * width / scaled_width)
    bottom = min(float(height), top + spec.size * height / scaled_height)
    return image.resize((spec.size, spec.size), _resampling(spec), box=(left, top, right, bottom))


def _scaled(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _resampling(spec: ImageInput) -> Image.Resampling:
    try:
        return _RESAMPLING[spec.interpolation]
    except KeyError:
        known = ", ".join(_RESAMPLING)
        raise _UnusableImageError(
            f"unknown interpolation {spec.interpolation!r} in the input spec: use {known}"
        ) from None

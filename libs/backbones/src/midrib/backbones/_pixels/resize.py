"""Resize and crop an image to the size that a backbone takes."""

from __future__ import annotations

import math

from PIL import Image

from midrib.backbones._pixels.decode import UnusableImageError
from midrib.registry import ImageInput

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BLACK = (0, 0, 0)


def resize_and_crop(image: Image.Image, spec: ImageInput) -> Image.Image:
    """Scale an RGB image as spec says, then keep its centre of height x width, padded where it is smaller.

    Scaling and cropping are one call that computes only the kept pixels, so an image of 1 x 60000 costs as little as
    any other. Photographs differ by at most one level of 255 from scaling first and cropping then; white noise differs
    by up to 25, because Pillow chooses the order of its two passes by the requested size.
    Source: torchvision's Resize and CenterCrop, and timm's ResizeKeepRatio and CenterCropOrPad, as timm's evaluation
    transform composes them.
    """
    height, width = spec.size, spec.width or spec.size
    scaled_width, scaled_height = _scaled(image.size, spec)
    left, right, before_x, columns = _kept(image.width, scaled_width, width)
    top, bottom, before_y, rows = _kept(image.height, scaled_height, height)
    resized = image.resize((columns, rows), _resampling(spec), box=(left, top, right, bottom))
    if (columns, rows) == (width, height):
        return resized
    canvas = Image.new("RGB", (width, height), _padding(spec))
    canvas.paste(resized, (before_x, before_y))
    return canvas


def _scaled(size: tuple[int, int], spec: ImageInput) -> tuple[int, int]:
    """Return the (width, height) to which an image of (width, height) is scaled before it is cropped."""
    width, height = size
    target_height = math.floor(spec.size / spec.crop)
    target_width = math.floor((spec.width or spec.size) / spec.crop)
    if spec.squash:
        return target_width, target_height
    if spec.border or target_width != target_height:
        ratios = (height / target_height, width / target_width)
        ratio = max(ratios) if spec.border else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    if width <= height:
        return target_width, int(target_width * height / width)
    return int(target_width * width / height), target_width


def _kept(length: int, scaled: int, size: int) -> tuple[float, float, int, int]:
    """Return, along one axis, where the kept part starts and ends in the image, the padding before it, and its pixels.

    length: of the image.  scaled: of the scaled image.  size: of the result.
    """
    if scaled < size:
        return 0.0, float(length), (size - scaled) // 2, scaled
    start = round((scaled - size) / 2.0) * length / scaled
    return start, min(float(length), start + size * length / scaled), 0, size


def _padding(spec: ImageInput) -> tuple[int, int, int]:
    red, green, blue = spec.mean
    return (round(255 * red), round(255 * green), round(255 * blue)) if spec.border else _BLACK


def _resampling(spec: ImageInput) -> Image.Resampling:
    try:
        return _RESAMPLING[spec.interpolation]
    except KeyError:
        supported = ", ".join(_RESAMPLING)
        raise UnusableImageError(
            f"unknown interpolation {spec.interpolation!r} in the input spec: use {supported}"
        ) from None

"""Resize and crop an image to the size that a backbone takes."""

from __future__ import annotations

import math

from PIL import Image

from midrib.media import UnusableImageError
from midrib.registry import ImageInput

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BLACK = (0, 0, 0)
# The largest scaled image of which all pixels are computed: a side of 2,048, or a photograph of any usual shape.
_WHOLE_PIXELS = 2**22
# How many pixels on each side bicubic scaling reads, at most.
_REACH = 2


def resize_and_crop(image: Image.Image, spec: ImageInput) -> Image.Image:
    """Scale an RGB image as spec says, then keep its centre of height x width, padded if it is smaller.

    The result has the same bytes as two calls, one that scales the whole image and one that crops it. Very long images,
    whose scaled size is over _WHOLE_PIXELS, are scaled in the kept part only, so that an image of 1 x 60000 costs as
    little as any other; their values differ by at most one level of 255 (noise of over 16,000 x 2 pixels: rarely two).
    Source: torchvision's Resize and CenterCrop, and timm's ResizeKeepRatio and CenterCropOrPad, as timm's evaluation
    transform composes them.
    """
    height, width = spec.size, spec.width or spec.size
    scaled = _scaled(image.size, spec)
    if scaled[0] * scaled[1] <= _WHOLE_PIXELS:
        resized = image.resize(scaled, _resampling(spec))
    else:
        resized = _scaled_middle(image, scaled, (width, height), _resampling(spec))
    if resized.size == (width, height):
        return resized
    canvas = Image.new("RGB", (width, height), _padding(spec))
    canvas.paste(resized, (-_start(resized.width, width), -_start(resized.height, height)))
    return canvas


def _start(scaled: int, size: int) -> int:
    """Return where the kept part starts along one axis of the scaled image; negative where padding comes before it."""
    return -((size - scaled) // 2) if scaled < size else round((scaled - size) / 2.0)


def _scaled_middle(
    image: Image.Image, scaled: tuple[int, int], size: tuple[int, int], resampling: Image.Resampling
) -> Image.Image:
    """Return the part of a long scaled image that is kept, along its longer axis; the other axis is not cropped.

    Pillow scales a row's pixels first, rounds, and scales the columns then. A box that is not of whole pixels changes
    some values by one level, because Pillow stores it in single precision. So only the last of the two steps uses one,
    unless the first step would make too many pixels.
    scaled, size: (width, height) of the whole scaled image, and of the result.
    """
    axis = int(scaled[1] > scaled[0])
    kept = min(size[axis], scaled[axis])
    start = _start(scaled[axis], kept)
    if axis == 0 and scaled[0] * image.height <= _WHOLE_PIXELS:
        row = image.resize((scaled[0], image.height), resampling)
        return row.crop((start, 0, start + kept, row.height)).resize((kept, scaled[1]), resampling)
    step = image.size[axis] / scaled[axis]
    first, last = start * step, (start + kept) * step
    margin = math.ceil(_REACH * max(step, 1.0)) + 1
    near = max(0, math.floor(first) - margin), min(image.size[axis], math.ceil(last) + margin)
    rest = first - near[0], min(last - near[0], near[1] - near[0])
    if axis:
        part = image.crop((0, near[0], image.width, near[1]))
        return part.resize((scaled[0], kept), resampling, box=(0, rest[0], image.width, rest[1]))
    part = image.crop((near[0], 0, near[1], image.height))
    return part.resize((kept, scaled[1]), resampling, box=(rest[0], 0, rest[1], image.height))


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


def _padding(spec: ImageInput) -> tuple[int, int, int]:
    red, green, blue = spec.mean
    return (round(255 * red), round(255 * green), round(255 * blue)) if spec.border else _BLACK


def _resampling(spec: ImageInput) -> Image.Resampling:
    """Return PIL's filter of the input spec. Raises UnusableImageError for an unknown name."""
    try:
        return _RESAMPLING[spec.interpolation]
    except KeyError:
        supported = ", ".join(_RESAMPLING)
        raise UnusableImageError(
            f"unknown interpolation {spec.interpolation!r} in the input spec: use {supported}"
        ) from None

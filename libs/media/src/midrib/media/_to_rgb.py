"""Turn decoded images of every mode into 8-bit RGB, with one result for each kind of image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from midrib.media._decode import Decoded, UnusableImageError, levels_of_16_bits

_WHITE = (255, 255, 255, 255)
_LARGEST_16_BIT = 65535


def to_rgb(decoded: Decoded) -> Image.Image:
    """Return the image in mode RGB: transparency over white, 16 bits scaled to 8, colour profiles not applied.

    Raises UnusableImageError for an image without pixels, and for pixels whose scale is unknown: floating, signed, or
    of 32 bits.
    """
    image = decoded.image
    if 0 in image.size:
        raise UnusableImageError(f"got an image of {image.width} x {image.height}, which has no pixels: leave it out")
    if decoded.unscaled is not None:
        raise UnusableImageError(f"got an image of {decoded.unscaled}, expected 8 or 16 unsigned bits: convert it")
    if image.mode == "F":
        raise UnusableImageError(
            f"got an image of floating pixels (mode {image.mode}), expected 8 or 16 bits per channel: convert it"
        )
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns nearly every 16-bit image white.
        return _grey_of_16_bits(decoded).convert("RGB")
    if decoded.transparent_level is not None:
        return _without_level(image.convert("L"), decoded.transparent_level)
    if image.has_transparency_data:
        # Pillow converts premultiplied grey to LA only.
        image = image.convert("LA") if image.mode == "La" else image
        page = Image.new("RGBA", image.size, _WHITE)
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey_of_16_bits(decoded: Decoded) -> Image.Image:
    """Return the image as 8-bit grey. Raises UnusableImageError for 32 bits per pixel."""
    pixels: npt.NDArray[np.integer] = np.asarray(decoded.image)
    if pixels.min() < 0 or pixels.max() > _LARGEST_16_BIT:
        raise UnusableImageError(
            f"got an image of 32 bits per pixel, {pixels.min()} to {pixels.max()}, expected 8 or 16 unsigned bits: "
            "convert it"
        )
    levels = pixels.astype(np.uint16)
    if decoded.white_is_zero:
        levels = _LARGEST_16_BIT - levels
    if decoded.transparent_level is not None:
        levels = np.where(pixels == decoded.transparent_level, np.uint16(_LARGEST_16_BIT), levels)
    return Image.fromarray(levels_of_16_bits(levels))


def _without_level(grey: Image.Image, level: int) -> Image.Image:
    """Return a grey image as RGB with the pixels of one level made white."""
    pixels = np.asarray(grey)
    return Image.fromarray(np.where(pixels == level, np.uint8(255), pixels)).convert("RGB")

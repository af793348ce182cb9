"""Turn encoded, decoded or array images into the pixels that an image backbone takes, without torch.

A server's process decodes images while its workers compute, so this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from midrib.backbones._errors import MediaError, as_list
from midrib.backbones._pixels.resize import resize_and_crop
from midrib.media import FORMATS, ImageMedia, UnusableImageError, check_pictures, open_image, to_rgb
from midrib.registry import ImageInput

# The number of pixels from which Pillow warns of a decompression bomb. Larger images are refused.
MAX_PIXELS = 89_478_485


def image_pixels(
    images: Sequence[ImageMedia], spec: ImageInput, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Decode, resize and crop images: [rows, 3, height, width], uint8, which `normalized` turns into floats.

    images: encoded bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF), PIL images, or arrays of uint8 or uint16 shaped
    [height, width], [height, width, 3] (RGB) or [height, width, 4] (RGBA).
    max_pixels: the limit for one image, checked before it is decoded.
    Raises MediaError, with the item's index, for the first image that is none of these or cannot be decoded, and for
    an array that holds one picture; TypeError for images that are not in a sequence.
    """
    try:
        check_pictures(images)
    except UnusableImageError as error:
        raise MediaError(0, str(error)) from None
    images = as_list("image", images)
    pixels = np.empty((len(images), 3, spec.size, spec.width or spec.size), np.uint8)
    for index, image in enumerate(images):
        pixels[index] = _row(index, image, spec, max_pixels).transpose(2, 0, 1)
    return pixels


def _row(index: int, image: ImageMedia, spec: ImageInput, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Return one image as [height, width, 3]. Raises MediaError for every failure."""
    try:
        return np.asarray(resize_and_crop(to_rgb(open_image(image, max_pixels)), spec), dtype=np.uint8)
    except Exception as error:
        # Decoders of damaged or hostile bytes raise nearly every kind of error; the item is always the cause.
        raise MediaError(index, _explained(error, max_pixels)) from error


def _explained(error: Exception, max_pixels: int) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"the image has more than {max_pixels} pixels, the limit: send a smaller one"
    if isinstance(error, UnusableImageError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"these bytes are not an image of a known format: send one of {', '.join(FORMATS)}"
    # The decoder's own text is chained for callers in process: a server does not repeat exceptions.
    return "the image is broken or cut short: send it again, whole"

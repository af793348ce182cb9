"""Turn encoded, decoded or array images into the tensor that an image backbone takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from midrib.backbones._errors import MediaError
from midrib.backbones._pixels.decode import FORMATS, ImageMedia, UnusableImageError, open_image
from midrib.backbones._pixels.resize import resize_and_crop
from midrib.backbones._pixels.to_rgb import to_rgb
from midrib.registry import ImageInput

__all__ = ["FORMATS", "MAX_PIXELS", "ImageMedia", "normalized", "prepare_images", "resize_and_crop"]

# The number of pixels from which Pillow warns of a decompression bomb. Larger images are refused.
MAX_PIXELS = 89_478_485


def prepare_images(images: Sequence[ImageMedia], spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Turn images into one batch: [rows, 3, height, width], float32, normalised as spec says.

    images: encoded bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF), PIL images, or arrays of uint8 or uint16 shaped
    [height, width], [height, width, 3] (RGB) or [height, width, 4] (RGBA).
    max_pixels: the limit for one image, checked before it is decoded.
    Raises MediaError, with the item's index, for the first image that is none of these or cannot be decoded.
    """
    if not images:
        return torch.zeros(0, *spec.tensor.shape)  # type: ignore[arg-type] # an image's shape has no open length
    pixels = torch.from_numpy(np.stack([_row(index, image, spec, max_pixels) for index, image in enumerate(images)]))
    return normalized(pixels.permute(0, 3, 1, 2), spec)


def normalized(pixels: Tensor, spec: ImageInput) -> Tensor:
    """Return (pixels / 255 - mean) / std, contiguous float32: [rows, 3, height, width], uint8, to the same shape."""
    scaled = pixels.to(torch.float32) / 255
    mean = torch.tensor(spec.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=pixels.device).view(1, 3, 1, 1)
    return ((scaled - mean) / std).contiguous()


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

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

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "ImageMedia",
    "image_pixels",
    "is_pixels",
    "normalized",
    "prepare_images",
    "prepare_pixels",
    "resize_and_crop",
]

# The number of pixels from which Pillow warns of a decompression bomb. Larger images are refused.
MAX_PIXELS = 89_478_485


def prepare_images(images: Sequence[ImageMedia], spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Turn images into one batch: [rows, 3, height, width], float32, normalised as spec says.

    Takes and raises the same as `image_pixels`.
    """
    return normalized(prepare_pixels(images, spec, max_pixels=max_pixels), spec)


def prepare_pixels(images: Sequence[ImageMedia], spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Turn images into one batch of pixels: [rows, 3, height, width], uint8.

    Takes and raises the same as `image_pixels`.
    """
    return torch.from_numpy(image_pixels(images, spec, max_pixels=max_pixels))


def image_pixels(
    images: Sequence[ImageMedia], spec: ImageInput, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Decode, resize and crop images: [rows, 3, height, width], uint8, which `normalized` turns into floats.

    images: encoded bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF), PIL images, or arrays of uint8 or uint16 shaped
    [height, width], [height, width, 3] (RGB) or [height, width, 4] (RGBA).
    max_pixels: the limit for one image, checked before it is decoded.
    Raises MediaError, with the item's index, for the first image that is none of these or cannot be decoded.
    """
    pixels = np.empty((len(images), *spec.pixels.shape), np.uint8)
    for index, image in enumerate(images):
        pixels[index] = _row(index, image, spec, max_pixels).transpose(2, 0, 1)
    return pixels


def is_pixels(batch: Tensor, spec: object) -> bool:
    """Return whether a batch [rows, ...] holds an image backbone's pixels, which have to be normalised."""
    return batch.dtype == torch.uint8 and isinstance(spec, ImageInput)


def normalized(pixels: Tensor, spec: ImageInput) -> Tensor:
    """Return (pixels / 255 - mean) / std in float32, on the device of the pixels, with the same bits on every device.

    pixels: [rows, 3, height, width], uint8. The result has the same shape and is contiguous.
    """
    floats = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    # CUDA multiplies by the reciprocal of a Python number, which rounds differently: divide by tensors only.
    floats.div_(_on_device([255.0], pixels))
    return floats.sub_(_on_device(spec.mean, pixels)).div_(_on_device(spec.std, pixels))


def _on_device(values: Sequence[float], pixels: Tensor) -> Tensor:
    """Return a value for each channel, [channels, 1, 1], float32, filled on the device of the pixels.

    A copy from the host would wait for the work that the device has.
    """
    return torch.cat([torch.full((1, 1, 1), value, dtype=torch.float32, device=pixels.device) for value in values])


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

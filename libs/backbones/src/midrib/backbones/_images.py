"""Turn encoded, decoded or array images into the tensor that an image backbone takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from midrib.backbones._pixels.normalize import normalized
from midrib.backbones._pixels.prepare import MAX_PIXELS, image_pixels
from midrib.backbones._pixels.resize import resize_and_crop
from midrib.media import FORMATS, ImageMedia
from midrib.registry import ImageInput

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "ImageMedia",
    "normalized",
    "prepare_images",
    "resize_and_crop",
]


def prepare_images(images: Sequence[ImageMedia], spec: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Turn images into one batch: [rows, 3, height, width], float32, normalised as spec says.

    Takes and raises the same as `image_pixels`.
    """
    pixels = torch.from_numpy(image_pixels(images, spec, max_pixels=max_pixels))
    return normalized(pixels, spec)

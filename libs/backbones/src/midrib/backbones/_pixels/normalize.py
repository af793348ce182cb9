"""Scale and normalise pixels on the device that holds them. It does not import Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from midrib.registry import ImageInput


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

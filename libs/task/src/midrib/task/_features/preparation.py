"""Preprocessing: media to a batch of inputs, as the backbone declares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from midrib.backbones import Backbone
from midrib.registry import AudioInput, ImageInput, InputSpec, TextInput
from midrib.task._features.backbone import is_remote


def preparation(module: nn.Module, spec: InputSpec | None, num_features: int, items: Any) -> Callable[[Any], Any]:
    """Return the function that turns such items into a batch of inputs [rows, ...]."""
    if isinstance(items, Tensor):
        return lambda rows: rows
    is_media = not isinstance(items, np.ndarray) or items.dtype == np.uint8
    if spec is None or not is_media or not isinstance(spec, ImageInput | TextInput | AudioInput):
        return lambda rows: torch.as_tensor(np.asarray(rows))
    backbone = Backbone("", module, num_features, spec)
    if isinstance(spec, ImageInput):
        return lambda images: backbone.prepare_images(list(images))
    if isinstance(spec, TextInput) and is_remote(module):
        return list  # its server tokenises
    if isinstance(spec, TextInput):
        return lambda texts: backbone.prepare_texts(list(texts))
    return lambda clips: backbone.prepare_audio(list(clips), spec.rate)

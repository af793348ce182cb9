"""Preprocessing: images, texts and clips to a batch of inputs, as the backbone declares it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from midrib.backbones import Backbone, MediaError, Tokenizer
from midrib.backbones._images import MAX_PIXELS
from midrib.media import open_image, to_rgb
from midrib.registry import AudioInput, ImageInput, InputSpec, TensorInput, TextInput
from midrib.task._features.input_errors import as_numbers
from midrib.task._features.media import clip_of, image_of, text_of

Transform: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Preparation:
    """The function that turns items into a batch of inputs: [rows, ...], on the CPU.

    Items are images, texts or clips, or files of them. Tensors and arrays of numbers are used as inputs.
    It holds no weights, so that it is sent to the workers of a DataLoader.
    spec: the backbone's input, None if not declared.  tokenizer: a text backbone's.
    is_remote: texts stay texts, because the server tokenises them.
    transform: changes each item before the backbone's own preprocessing; see transformed_image.
    pixels: images become uint8 instead of float32, which the backbone normalises on its device: a quarter of the bytes.
    """

    spec: InputSpec | None
    tokenizer: Tokenizer | None = None
    is_remote: bool = False
    transform: Transform | None = None
    pixels: bool = False

    def __call__(self, items: Any) -> Any:
        """Prepare a batch.  Raises MediaError, with the item's index and file, for an item that cannot be used."""
        if isinstance(items, Tensor):
            return items
        is_media = not isinstance(items, np.ndarray) or items.dtype == np.uint8 or items.dtype.kind in "OU"
        if self._are_pixels(items):
            return torch.from_numpy(np.ascontiguousarray(items))
        if not is_media or not isinstance(self.spec, ImageInput | TextInput | AudioInput):
            return as_numbers(items if self.transform is None else list(map(self.transform, items)), self.spec)
        rows = [self._read(index, item) for index, item in enumerate(items)]
        try:
            return self._batch(rows)
        except MediaError as error:
            files = Path if isinstance(self.spec, TextInput) else str | Path
            if not isinstance(items[error.index], files):
                raise
            raise MediaError(error.index, f"{items[error.index]}: {error.problem}") from error

    def _are_pixels(self, items: Any) -> bool:
        """Return whether an array holds pixels [rows, 3, height, width] instead of images [rows, height, width, 3].

        A transform takes images.
        """
        if not isinstance(self.spec, ImageInput) or not isinstance(items, np.ndarray) or self.transform is not None:
            return False
        return items.dtype == np.uint8 and items.shape[1:] == self.spec.pixels.shape and items.shape[-1] not in (3, 4)

    def read(self, item: Any) -> Any:
        """Return one item as the backbone's preprocessing takes it, transformed.

        Raises ValueError if its file or its value cannot be used.
        """
        if isinstance(self.spec, ImageInput):
            image = image_of(item)
            return image if self.transform is None else transformed_image(image, self.transform)
        if isinstance(self.spec, AudioInput):
            clip = clip_of(item, self.spec.rate)
            samples = self._backbone().prepare_audio([clip.samples], clip.rate)[0].numpy()
            return samples if self.transform is None else np.asarray(self.transform(samples), np.float32)
        text = text_of(item)
        return text if self.transform is None else str(self.transform(text))

    def _read(self, index: int, item: Any) -> Any:
        """Return a prepared item. Raises MediaError with the index of an item that cannot be read."""
        try:
            return self.read(item)
        except MediaError as error:
            raise MediaError(index, error.problem) from error
        except ValueError as error:
            raise MediaError(index, str(error)) from error

    def _batch(self, rows: Sequence[Any]) -> Any:
        backbone = self._backbone()
        if isinstance(self.spec, ImageInput):
            return backbone.prepare_pixels(rows) if self.pixels else backbone.prepare_images(rows)
        if isinstance(self.spec, AudioInput):
            return backbone.prepare_audio(rows, self.spec.rate)
        return list(rows) if self.is_remote else backbone.prepare_texts(rows)

    def _backbone(self) -> Backbone:
        module = nn.Module()
        object.__setattr__(module, "tokenizer", self.tokenizer)
        return Backbone("of this task", module, 1, self.spec or TensorInput(()))


def transformed_image(image: Any, transform: Transform) -> Any:
    """Apply a user's transform to an image.

    image: encoded bytes, a PIL image or an array.  transform: takes a uint8 tensor [3, height, width], as torchvision's
    v2 transforms do, or is albumentations', which takes image=, an array [height, width, 3].  It returns the same kind
    of image, of any size, or a PIL image.
    Raises TypeError if it returns floats: the backbone scales and normalises.
    """
    pixels = np.array(to_rgb(open_image(image, MAX_PIXELS)))
    if any(base.__module__.partition(".")[0] == "albumentations" for base in type(transform).__mro__):
        result = transform(image=pixels)["image"]
    else:
        result = transform(torch.from_numpy(pixels).permute(2, 0, 1))
    if isinstance(result, Tensor) and result.dtype == torch.uint8 and result.dim() == 3:
        return result.permute(1, 2, 0).contiguous().numpy()
    if isinstance(result, Image.Image) or (isinstance(result, np.ndarray) and result.dtype == np.uint8):
        return result
    shape = f" of {result.dtype}, {list(result.shape)}" if hasattr(result, "dtype") else ""
    raise TypeError(
        f"the transform returned a {type(result).__name__}{shape}, expected a uint8 image [3, height, width]: leave "
        "out ToDtype and Normalize, because the backbone scales and normalises"
    )

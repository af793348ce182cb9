"""The inputs of backbones: declared at registration, carried by the wire, read by the preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class TensorInput:
    """Rows of one shape and element type.

    shape: one row's shape, without the batch dimension; None is any length.
    dtype: numpy's name of the element type, such as "float32", "bfloat16" or "int64".
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"

    @property
    def tensor(self) -> TensorInput:
        """The tensor that the backbone takes: this one."""
        return self


@dataclass(frozen=True)
class ImageInput:
    """RGB images, resized and centre-cropped to size x size, scaled to 0..1, then (x - mean) / std.

    size: height and width in pixels.  mean, std: one value per channel, on the 0..1 scale.
    interpolation: "bicubic" or "bilinear".  crop: the share of the resized side that the crop keeps; above 1, the
    image is resized to less than size and padded with black.
    squash: resize height and width independently, as SigLIP does, instead of by the shorter side.
    width: the width in pixels if it differs from the height.
    border: resize by the longer side, so that the whole image is kept, and pad with the mean.
    """

    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop: float = 0.875
    squash: bool = False
    width: int | None = None
    border: bool = False

    @property
    def tensor(self) -> TensorInput:
        """The tensor that the backbone takes: [3, height, width], float32."""
        return TensorInput((3, self.size, self.width or self.size))

    @property
    def pixels(self) -> TensorInput:
        """The other tensor that it takes, and normalises on its device: [3, height, width], uint8, RGB of 0..255."""
        return TensorInput((3, self.size, self.width or self.size), "uint8")


@dataclass(frozen=True)
class TextInput:
    """Strings, turned into at most max_tokens token ids per row, padded with 0."""

    max_tokens: int

    @property
    def tensor(self) -> TensorInput:
        """The tensor that the backbone takes: [tokens], int64, 0 where padded, -1 for a token whose id is 0."""
        return TensorInput((None,), "int64")


@dataclass(frozen=True)
class AudioInput:
    """Mono clips, resampled to rate samples a second."""

    rate: int

    @property
    def tensor(self) -> TensorInput:
        """The tensor that the backbone takes: [samples], float32 in -1..1."""
        return TensorInput((None,))


InputSpec: TypeAlias = TensorInput | ImageInput | TextInput | AudioInput


def in_words(spec: InputSpec | None) -> str:
    """Return a declaration for a reader, such as "image 224" or "text, at most 256 tokens"; "" if there is none."""
    if isinstance(spec, ImageInput):
        return f"image {spec.size}" + (f" x {spec.width}" if spec.width else "")
    if isinstance(spec, TextInput):
        return f"text, at most {spec.max_tokens} tokens"
    if isinstance(spec, AudioInput):
        return f"audio, {spec.rate} Hz"
    if isinstance(spec, TensorInput):
        return f"{spec.dtype} [{' x '.join('any' if size is None else str(size) for size in spec.shape)}]"
    return ""

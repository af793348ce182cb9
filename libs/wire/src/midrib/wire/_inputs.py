"""Convert input declarations to InputSpec messages and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from midrib.registry import AudioInput, ImageInput, InputSpec, TensorInput, TextInput
from midrib.v1 import backbone_pb2
from midrib.wire._tensor import code_from_dtype, dtype_from_code


def encode_input_spec(spec: InputSpec) -> backbone_pb2.InputSpec:
    """Return the message of a backbone's declared input; an open length is -1."""
    tensor = backbone_pb2.TensorInput(
        shape=[-1 if size is None else size for size in spec.tensor.shape],
        dtype=code_from_dtype(spec.tensor.dtype),
    )
    message = backbone_pb2.InputSpec(tensor=tensor)
    if isinstance(spec, ImageInput):
        message.tensor.other_dtypes.append(code_from_dtype(spec.pixels.dtype))
        image = backbone_pb2.ImageInput(
            size=spec.size,
            mean=spec.mean,
            std=spec.std,
            interpolation=spec.interpolation,
            crop=spec.crop,
            squash=spec.squash,
            width=spec.width or 0,
            border=spec.border,
        )
        message.image.CopyFrom(image)
    elif isinstance(spec, TextInput):
        message.text.CopyFrom(backbone_pb2.TextInput(max_tokens=spec.max_tokens))
    elif isinstance(spec, AudioInput):
        message.audio.CopyFrom(backbone_pb2.AudioInput(rate=spec.rate))
    return message


def decode_input_spec(message: backbone_pb2.InputSpec) -> InputSpec:
    """Return the declaration in a message.

    Raises InvalidInputError for an element type that this version does not know.
    """
    media = message.WhichOneof("media")
    if media == "image":
        image = message.image
        return ImageInput(
            size=image.size,
            mean=_triple(image.mean),
            std=_triple(image.std),
            interpolation=image.interpolation,
            crop=image.crop,
            squash=image.squash,
            width=image.width or None,
            border=image.border,
        )
    if media == "text":
        return TextInput(max_tokens=message.text.max_tokens)
    if media == "audio":
        return AudioInput(rate=message.audio.rate)
    shape = tuple(None if size < 0 else size for size in message.tensor.shape)
    return TensorInput(shape, dtype_from_code(message.tensor.dtype, field="input.dtype").name)


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    return cast("tuple[float, float, float]", tuple(values))

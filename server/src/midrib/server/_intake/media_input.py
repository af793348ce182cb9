"""The inputs that are not yet arrays: media, and tensors whose bytes lie apart from their message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from midrib.server._large import Buffer
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import Array, decode_tensor


@dataclass(frozen=True)
class WireTensor:
    """A tensor as it was sent. message: its dtype, shape and scales.  data: its bytes, in the message or apart."""

    message: tensor_pb2.Tensor
    data: Buffer

    def decoded(self, field: str) -> Array:
        """Return the array [...]. field: its place in the request. Raises InvalidInputError if it is damaged."""
        return decode_tensor(self.message, field=field, data=self.data)


def wire_tensor(message: tensor_pb2.Tensor) -> WireTensor:
    """Return the tensor [...] of a message that has its data."""
    return WireTensor(message, message.data)


@dataclass(frozen=True)
class Media:
    """The images, texts or clips of one item.

    kind: "images", "texts" or "audio".
    items: encoded images, `bytes` or views; texts, `str` or views of UTF-8; or clips, `WireTensor`.
    rate: the sampling rate of clips, in Hz.
    """

    kind: str
    items: Sequence[Any]
    rate: int = 0


def media_of(message: embedding_pb2.Input) -> Media | None:
    """Return the media of an input, without copies of images and texts; None for a tensor, or without an input."""
    kind = message.WhichOneof("kind")
    if kind == "images":
        return Media(kind, message.images.encoded)
    if kind == "texts":
        return Media(kind, message.texts.texts)
    if kind == "audio":
        return Media(kind, [wire_tensor(clip) for clip in message.audio.clips], message.audio.rate)
    return None


def number_of_media(message: embedding_pb2.Input) -> int:
    """Return the number of images, texts or clips of an input."""
    return len(message.images.encoded or message.texts.texts or message.audio.clips)

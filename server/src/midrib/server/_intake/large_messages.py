"""Reads large messages without copying their data: protobuf's library would copy all bytes while it holds the GIL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError

from midrib.server._intake.media_input import Media, WireTensor
from midrib.server._large import Buffer
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import InvalidInputError, LimitExceededError, read_varint

# Larger messages are read here. Beside their data, all fields of a message together may have as many bytes.
LARGE_MESSAGE_BYTES = 2**16

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TENSOR_DATA, _TENSOR_SCALES = 3, 4
_SCALE_BYTES = 4
_TENSOR, _IMAGES, _TEXTS, _AUDIO = 1, 2, 3, 4


class WireField(NamedTuple):
    """One field in the bytes of a message. begin: where its tag begins.  start, end: the range of its content."""

    number: int
    is_sized: bool
    begin: int
    start: int
    end: int


class WireMessage:
    """The fields of a message in data[start:end], in their order. Raises DecodeError if the bytes are malformed."""

    def __init__(self, data: Buffer, start: int, end: int, name: str) -> None:
        self.data = data
        self._name = name
        try:
            self.fields = list(_fields(data, start, end))
        except (IndexError, ValueError) as error:
            raise DecodeError(f"the bytes of {name} are malformed") from error

    def sized(self, number: int) -> list[WireField]:
        """Return the occurrences of a field of bytes, a text, a message or packed numbers."""
        return [field for field in self.fields if field.number == number and field.is_sized]

    def only(self, number: int) -> WireField | None:
        """Return a field that occurs once; None if it is absent. Raises InvalidInputError if it is repeated."""
        fields = self.sized(number)
        if len(fields) > 1:
            raise InvalidInputError(
                f"a large message has field {number} of {self._name} {len(fields)} times, expected once: send it once"
            )
        return fields[0] if fields else None

    def content(self, field: WireField) -> Buffer:
        """Return the content of a field, without a copy."""
        return self.data[field.start : field.end]

    def nested(self, field: WireField, name: str) -> WireMessage:
        """Return the message in a field."""
        return WireMessage(self.data, field.start, field.end, name)

    def beside(self, *numbers: int) -> bytes:
        """Return the fields with other numbers. Raises LimitExceededError if they have many bytes."""
        parts = [self.data[field.begin : field.end] for field in self.fields if field.number not in numbers]
        size = sum(map(len, parts))
        if size > LARGE_MESSAGE_BYTES:
            raise LimitExceededError(
                f"{self._name} has {size} bytes beside its data, at most {LARGE_MESSAGE_BYTES} are accepted: shorten "
                "its names and leave unknown fields out"
            )
        return b"".join(parts)


def _fields(data: Buffer, at: int, end: int) -> Iterator[WireField]:
    """Yield the fields in data[at:end]. Raises IndexError or ValueError if they are malformed."""
    while at < end:
        begin = at
        tag, at = read_varint(data, at)
        kind, start = tag & 7, at
        if kind == _BYTES:
            size, start = read_varint(data, at)
            at = start + size
        elif kind == _VARINT:
            at = read_varint(data, at)[1]
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of wire type {kind}")
        if at > end or not tag >> 3:
            raise ValueError("a field ends behind its message, or has the number 0")
        yield WireField(tag >> 3, kind == _BYTES, begin, start, at)


def read_large_tensor(data: Buffer, start: int, end: int) -> WireTensor:
    """Return the tensor in data[start:end]. Raises DecodeError, InvalidInputError for more scales than bytes of data.

    Raises as `WireMessage` too.
    """
    message = WireMessage(data, start, end, "Tensor")
    head = tensor_pb2.Tensor.FromString(message.beside(_TENSOR_DATA, _TENSOR_SCALES))
    content, scales = (
        b"" if field is None else message.content(field) for field in map(message.only, (_TENSOR_DATA, _TENSOR_SCALES))
    )
    if len(scales) > _SCALE_BYTES * len(content):
        raise InvalidInputError(
            f"Tensor has {len(scales)} bytes of row_scales beside {len(content)} bytes of data: send four for each row",
            field="row_scales",
        )
    head.row_scales = bytes(scales)
    return WireTensor(head, content)


def read_large_input(data: Buffer, start: int, end: int) -> WireTensor | Media | embedding_pb2.Input:
    """Return the input in data[start:end]; an empty Input if it holds nothing. Raises as `read_large_tensor`."""
    message = WireMessage(data, start, end, "Input")
    kinds = [field for field in message.fields if field.is_sized and field.number in (_TENSOR, _IMAGES, _TEXTS, _AUDIO)]
    message.beside(_TENSOR, _IMAGES, _TEXTS, _AUDIO)
    if not kinds:
        return embedding_pb2.Input()
    if len(kinds) > 1:
        raise InvalidInputError(f"a large input has {len(kinds)} fields, expected one of tensor, images, texts, audio")
    field = kinds[0]
    if field.number == _TENSOR:
        return read_large_tensor(data, field.start, field.end)
    media = message.nested(field, "Media")
    if field.number == _AUDIO:
        clips = [read_large_tensor(data, clip.start, clip.end) for clip in media.sized(1)]
        return Media("audio", clips, embedding_pb2.AudioClips.FromString(media.beside(1)).rate)
    media.beside(1)
    return Media("images" if field.number == _IMAGES else "texts", [media.content(item) for item in media.sized(1)])

"""Reads and writes the most frequent messages fast: an Embed request, the item of a stream, an embedding.

A tensor is read as a view of the message and written from its own memory; protobuf's library copies it four times. The
bytes are equal to those of the library, which a property test holds. The library reads all messages of another layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from midrib.server._grpc.codecs.large import read_backward, read_large_backward, read_large_call, read_large_item
from midrib.server._grpc.codecs.messages import EmbedCall, StreamItem
from midrib.server._grpc.decoding import Codec, never_fast
from midrib.server._large import Buffer, joined
from midrib.v1 import tensor_pb2
from midrib.v1.embedding_pb2 import (
    BackwardRequest,
    EmbedRequest,
    EmbedStreamRequest,
    EmbedStreamResponse,
    Options,
    Timing,
)
from midrib.wire import Array, array_bytes, encode_int8_rows, read_tensor, read_varint, tensor_head, varint

# A shared item has two offsets, a size, and a tensor's type and shape.
_MAX_SHARED_ITEM = 256
# A usual Embed call has five fields and a few names beside its input; others are left to the library.
_MAX_FIELDS = 16
_MAX_BESIDE_INPUT = 4096
# The elements that are converted to bytes in one step.
_INT8_ELEMENTS = 2**16


def _read_any_call(data: bytes) -> EmbedCall:
    return EmbedCall(EmbedRequest.FromString(data), None)


def _read_tensor_call(data: Buffer) -> EmbedCall:
    """Return the request and its tensor [rows, ...]. Raises ValueError for another layout."""
    start, at, end = _input_of_embed(data)
    if len(data) - (end - start) > _MAX_BESIDE_INPUT:
        raise ValueError(f"{len(data) - (end - start)} bytes beside the input")
    tensor = _tensor_of_input(data, at, end)
    return EmbedCall(EmbedRequest.FromString(b"".join((data[:start], data[end:]))), tensor)


def _input_of_embed(data: Buffer) -> tuple[int, int, int]:
    """Return where the `input` field of an EmbedRequest begins, and where its message begins and ends.

    Raises ValueError for another layout.
    """
    field: tuple[int, int, int] | None = None
    at = 0
    for _ in range(_MAX_FIELDS):
        if at >= len(data):
            break
        start, tag = at, data[at]
        value, at = read_varint(data, at + 1)
        if tag & 7 == 2:
            at += value
        if tag & 7 not in (0, 2) or tag > 0x7F:
            raise ValueError(f"a field with the tag {tag}")
        if tag == 0x1A:
            if field is not None:
                raise ValueError(f"a second input at byte {start}")
            field = start, at - value, at
    if field is None or at != len(data):
        raise ValueError(f"no input in {len(data)} bytes, or cut off")
    return field


def _read_item(data: Buffer) -> StreamItem | EmbedStreamRequest:
    """Return the item of a stream. Raises ValueError for another layout."""
    size, at = _field(data, 0, 0x12)  # EmbedStreamRequest.item
    if at + size != len(data):
        raise ValueError(f"an item of {size} bytes in a message of {len(data)}")
    item_id = 0
    if data[at] == 0x08:
        item_id, at = read_varint(data, at + 1)
    if data[at] == 0x1A and len(data) <= _MAX_SHARED_ITEM:  # Item.shared: its elements are too few to count
        return EmbedStreamRequest.FromString(bytes(data))
    size, at = _field(data, at, 0x12)  # Item.input
    if at + size != len(data):
        raise ValueError(f"an input of {size} bytes in a message of {len(data)}")
    return StreamItem(item_id, _tensor_of_input(data, at, len(data)))


def _tensor_of_input(data: Buffer, at: int, end: int) -> Array:
    """Return the tensor [rows, ...] of an input. Raises ValueError for another layout."""
    size, at = _field(data, at, 0x0A)
    if at + size != end:
        raise ValueError(f"a tensor of {size} bytes in a message of {end - at}")
    return read_tensor(data, at, end)


def _field(data: Buffer, at: int, tag: int) -> tuple[int, int]:
    """Return the length of the field that begins at this byte, and where its content begins.

    Raises ValueError for another field.
    """
    if data[at] != tag:
        raise ValueError(f"a field with the tag {data[at]}, expected {tag}")
    return read_varint(data, at + 1)


def write_embed_response(rows: Array, options: Options, revision: str, timing: Timing) -> bytes:
    """Return the bytes of an EmbedResponse, or of a BackwardResponse, which has the same fields.

    rows: [rows, dimensions], or the gradient of an input [rows, ...].
    """
    named = _sized(0x12, revision.encode())
    return joined((*_tensor_field(0x0A, rows, options), named, _sized(0x1A, timing.SerializeToString())))


def write_result(item_id: int, rows: Array, options: Options, timing: Timing) -> bytes:
    """Return the bytes of a stream's response with the embedding of an item. rows: [rows, dimensions]."""
    parts = [*_tensor_field(0x12, rows, options), _sized(0x22, timing.SerializeToString())]
    if item_id:
        parts.insert(0, b"\x08" + varint(item_id))
    return joined((b"\x12", varint(sum(map(len, parts))), *parts))


def written(message: EmbedStreamResponse | bytes) -> bytes:
    """Return the bytes of a stream's response; a result is bytes already."""
    return message if isinstance(message, bytes) else message.SerializeToString()


CODECS: Mapping[str, Codec] = {
    "/midrib.v1.EmbeddingService/Embed": Codec(EmbedRequest, _read_tensor_call, _read_any_call, bytes, read_large_call),
    "/midrib.v1.EmbeddingService/EmbedStream": Codec(
        EmbedStreamRequest, _read_item, EmbedStreamRequest.FromString, written, read_large_item
    ),
    "/midrib.v1.EmbeddingService/Backward": Codec(
        BackwardRequest, never_fast, read_backward, bytes, read_large_backward
    ),
}
"""The codecs of the most frequent methods, by path."""


def _tensor_field(tag: int, rows: Array, options: Options) -> list[Buffer]:
    """Return the field of an embedding in parts: the bytes before the features, and the features' memory."""
    if options.dtype == tensor_pb2.DATA_TYPE_INT8:
        parts = _int8_parts(rows)
    else:
        parts = [tensor_head(rows.dtype, rows.shape), array_bytes(rows)]
    return [bytes((tag,)) + varint(sum(map(len, parts))), *parts]


def _int8_parts(rows: Array) -> list[Buffer]:
    """Return the Tensor of rows with one byte per element, in parts of a bounded size."""
    step = max(1, _INT8_ELEMENTS // max(1, rows.shape[1]))
    encoded = [encode_int8_rows(rows[start : start + step]) for start in range(0, len(rows), step)]
    scales = b"".join(part.row_scales for part in encoded)
    parts: list[Buffer] = [tensor_head(np.dtype(np.int8), rows.shape), *(part.data for part in encoded)]
    return [*parts, _sized(0x22, scales)] if scales else parts


def _sized(tag: int, content: bytes) -> bytes:
    return b"".join((bytes((tag,)), varint(len(content)), content))

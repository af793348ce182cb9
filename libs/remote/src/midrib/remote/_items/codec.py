"""Write items and read results, the two frequent messages, without an intermediate copy.

The bytes equal those of the protobuf library, as a property test checks. Results that are laid out differently are read
by the library. An item of 600 KB costs one copy here and three in the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from midrib.v1 import embedding_pb2
from midrib.wire import (
    Array,
    InternalError,
    MidribError,
    decode_tensor,
    read_tensor,
    read_varint,
    status_to_error,
    tensor_head,
    varint,
)


class Timing(NamedTuple):
    """The seconds of an item on the server; total_s is from its arrival to its result."""

    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0


class Result(NamedTuple):
    """The outcome of one item: features [rows, num_features], or the error of this item.

    shared_bytes: the size of features that lie in shared memory; 0 for others.
    """

    id: int
    outcome: Array | MidribError
    timing: Timing
    shared_bytes: int = 0


class TensorMemory(Protocol):
    """Memory that a server shares, in which results may lie."""

    def tensor(self, shared: embedding_pb2.SharedTensor) -> Array:
        """Return a view of a tensor in its shape [rows, ...]. Raises ValueError if it is not inside the memory."""
        ...


def encode_item(item_id: int, dtype: np.dtype[Any], shape: Sequence[int], parts: Sequence[bytes | memoryview]) -> bytes:
    """Return the stream request of one item: a tensor of this shape, whose bytes are the parts, joined."""
    head, size = _input_head(dtype, tuple(shape))
    if item_id:
        head = b"\x08" + varint(item_id) + head
    return b"".join([b"\x12", varint(len(head) + size), head, *parts])  # EmbedStreamRequest.item


def encode_media_item(item_id: int, kind: bytes, fields: Sequence[bytes], last: bytes = b"") -> bytes:
    """Return the stream request of one item of media: fields, and then last, joined in the input's field `kind`."""
    size = sum(map(len, fields)) + len(last)
    head = kind + varint(size)
    head = b"\x12" + varint(len(head) + size) + head  # Item.input
    if item_id:
        head = b"\x08" + varint(item_id) + head
    return b"".join([b"\x12", varint(len(head) + size), head, *fields, last])  # EmbedStreamRequest.item


@lru_cache(1024)
def _input_head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, int]:
    """Return the bytes that precede those of an item's tensor, and the number of bytes of the tensor."""
    size = math.prod(shape) * dtype.itemsize
    head = tensor_head(dtype, shape)
    head = b"\x0a" + varint(len(head) + size) + head  # Input.tensor
    return b"\x12" + varint(len(head) + size) + head, size  # Item.input


def decode_result(data: bytes, memory: TensorMemory | None = None) -> Result | None:
    """Return the result in a stream response; None if the bytes are not a result.

    memory: the stream's shared memory.
    The features, [rows, num_features], are a view of data or of memory. If they cannot be read, the outcome is an
    InternalError.
    """
    if not data or data[0] != 0x12:  # EmbedStreamResponse.result
        return None
    try:
        return _read_result(data, memory)
    except (DecodeError, IndexError, ValueError):  # laid out differently, which protobuf allows
        response = parsed_response(data)
    return _result_from(response.result, memory) if response is not None and response.HasField("result") else None


def parsed_response(data: bytes) -> embedding_pb2.EmbedStreamResponse | None:
    """Return the stream response in bytes; None if they are something else."""
    try:
        return embedding_pb2.EmbedStreamResponse.FromString(data)
    except DecodeError:
        return None


def _read_result(data: bytes, memory: TensorMemory | None) -> Result:
    """Return the result in a message as the server writes it. Raises ValueError for another layout."""
    size, at = read_varint(data, 1)
    if at + size != len(data):
        raise ValueError(f"a field of {size} bytes in a message of {len(data)}")
    item_id, timing, shared_bytes = 0, Timing(), 0
    outcome: Array | MidribError | None = None
    while at < len(data):
        tag = data[at]
        value, at = read_varint(data, at + 1)
        if tag == 0x08:
            item_id = value
            continue
        end = at + value
        if end > len(data):
            raise ValueError(f"a field ends at byte {end}, the message at {len(data)}")
        if tag == 0x12 and outcome is None:
            outcome = read_tensor(data, at, end)
        elif tag == 0x22:
            timing = _timing_from(embedding_pb2.Timing.FromString(data[at:end]))
        elif tag == 0x2A and outcome is None:
            outcome, shared_bytes = _shared(embedding_pb2.SharedTensor.FromString(data[at:end]), memory)
        else:
            raise ValueError(f"a field with the tag {tag}")
        at = end
    if outcome is None:
        raise ValueError(f"no rows in {len(data)} bytes")
    return Result(item_id, outcome, timing, shared_bytes)


def _result_from(result: embedding_pb2.Result, memory: TensorMemory | None) -> Result:
    outcome: Array | MidribError
    if result.HasField("shared"):
        outcome, shared_bytes = _shared(result.shared, memory)
        return Result(result.id, outcome, _timing_from(result.timing), shared_bytes)
    if result.WhichOneof("outcome") == "embedding":
        outcome = _features(partial(decode_tensor, result.embedding, field="result.embedding"))
    elif result.HasField("error"):
        outcome = status_to_error(status_pb2.Status.FromString(result.error.SerializeToString()))
    else:
        outcome = InternalError("a result has neither rows nor an error: this is a fault of the server")
    return Result(result.id, outcome, _timing_from(result.timing))


def _features(read: Callable[[], Array]) -> Array | MidribError:
    """Return the features [rows, num_features] of a result, or the error of a server that sent something else."""
    try:
        return read()
    except ValueError as error:
        return InternalError(f"a result cannot be read ({error}): this is a fault of the server")


def _shared(tensor: embedding_pb2.SharedTensor, memory: TensorMemory | None) -> tuple[Array | MidribError, int]:
    """Return the features [rows, num_features] or the error of a result in shared memory, and the size of features."""
    outcome = _features(partial(_view, tensor, memory))
    return outcome, 0 if isinstance(outcome, MidribError) else outcome.nbytes


def _view(tensor: embedding_pb2.SharedTensor, memory: TensorMemory | None) -> Array:
    """Return a tensor [rows, ...]. Raises ValueError if it does not lie in the memory of the stream."""
    if memory is None:
        raise ValueError("it lies in shared memory, which this stream does not have")
    return memory.tensor(tensor)


def _timing_from(timing: embedding_pb2.Timing) -> Timing:
    queue, compute, total = timing.queue, timing.compute, timing.total
    return Timing(
        queue.seconds + queue.nanos * 1e-9, compute.seconds + compute.nanos * 1e-9, total.seconds + total.nanos * 1e-9
    )

"""Write Tensor messages around an array's memory, and read them as views of the message, without further copies.

This is for the messages that carry most bytes. The bytes equal those of the protobuf library, as a property test
checks. Valid messages that are laid out differently are not read here: the caller falls back to the library.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from midrib.wire._tensor import Array, checked_size, code_from_dtype, dtype_from_code

# Combinations of dtype and shape to remember. Bounded, because clients choose them.
_REMEMBERED = 1024


@lru_cache(_REMEMBERED)
def tensor_head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the bytes of a Tensor message that precede the array's bytes: dtype, shape and length.

    Raises InvalidInputError for an element type that the wire does not have.
    """
    packed = b"".join(map(varint, shape))
    head = b"\x08" + varint(code_from_dtype(dtype))
    if shape:
        head += b"\x12" + varint(len(packed)) + packed
    size = checked_size(shape, dtype.itemsize, field="shape")
    return head + b"\x1a" + varint(size) if size else head


def array_bytes(array: Array) -> memoryview:
    """Return the memory of a contiguous array [...], little-endian on every machine, to write it into a message."""
    if sys.byteorder == "big":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


def read_tensor(data: bytes | memoryview, at: int, end: int) -> Array:
    """Return the array of the Tensor message in the bytes at:end of data, as a read-only view in its shape [...].

    Raises IndexError or ValueError if the message is not laid out as `tensor_head` lays it out.
    """
    if data[at] != 0x08 or data[at + 2] != 0x12:
        raise ValueError(f"got the tags {data[at]} and {data[at + 2]}, expected the element type, then the shape")
    stop = at + 4 + data[at + 3]
    dtype, shape, size = _layout(data[at + 1], bytes(data[at + 4 : stop]))
    if not size:
        if stop != end:
            raise ValueError(f"got {end - stop} bytes after the shape of an empty tensor, expected none")
        return np.empty(shape, dtype)
    if data[stop] != 0x1A:
        raise ValueError(f"got the tag {data[stop]} after the shape, expected the data")
    announced, start = read_varint(data, stop + 1)
    if announced != size or start + size != end or end > len(data):
        raise ValueError(f"got {announced} bytes, expected {size} for the shape, up to the end of the message")
    return np.ndarray(shape, dtype, data, start)


@lru_cache(_REMEMBERED)
def _layout(code: int, packed: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype, shape and number of bytes that the head of a tensor announces. Raises ValueError for bool."""
    dtype = dtype_from_code(code)
    if dtype == np.bool_:
        raise ValueError(f"{dtype} tensors are checked byte by byte elsewhere")
    shape, at = [], 0
    while at < len(packed):
        extent, at = read_varint(packed, at)
        shape.append(extent)
    return dtype, tuple(shape), checked_size(tuple(shape), dtype.itemsize, field="shape")


def varint(value: int) -> bytes:
    """Return a non-negative number as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset after it. Raises IndexError or ValueError if there is none."""
    value = data[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes ends at byte {at}")

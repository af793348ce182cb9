"""Tensor messages as bytes equal those of protobuf, with fewer copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from midrib.v1 import tensor_pb2
from midrib.wire import Array, array_bytes, encode_tensor, read_tensor, read_varint, tensor_head, varint

arrays = st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int32", "int64"]).flatmap(
    lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
)
FLOAT32 = tensor_pb2.DATA_TYPE_FLOAT32
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
MESSAGE = encode_tensor(ROWS).SerializeToString()


@given(arrays)
def test_a_head_and_the_memory_are_the_message(array: Array) -> None:
    """The bytes equal those that the protobuf library writes."""
    written = tensor_head(array.dtype, array.shape) + bytes(array_bytes(array))
    assert written == encode_tensor(array).SerializeToString()


@given(arrays, st.binary(max_size=3), st.binary(max_size=3))
def test_a_tensor_is_read_in_place(array: Array, before: bytes, behind: bytes) -> None:
    """A message between other bytes is read without copying its data."""
    message = encode_tensor(array).SerializeToString()
    read = read_tensor(before + message + behind, len(before), len(before) + len(message))
    assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(MESSAGE[:-1], "expected .* up to the end of the message", id="cut off"),
        pytest.param(MESSAGE + b"\x08\x01", "expected .* up to the end of the message", id="bytes after it"),
        pytest.param(MESSAGE[2:] + MESSAGE[:2], "expected the element type, then the shape", id="another order"),
        pytest.param(
            tensor_pb2.Tensor(shape=[1], data=b"abcd").SerializeToString(),
            "expected the element type, then the shape",
            id="no type",
        ),
        pytest.param(
            tensor_pb2.Tensor(dtype=FLOAT32, shape=[2], data=b"abcd").SerializeToString(),
            "got 4 bytes, expected 8 for the shape",
            id="too few bytes",
        ),
        pytest.param(
            tensor_pb2.Tensor(dtype=FLOAT32, shape=[-1], data=b"abcd").SerializeToString(),
            "overflows 63 bits",
            id="negative",
        ),
        pytest.param(
            tensor_pb2.Tensor(dtype=FLOAT32, shape=[1] * 9, data=b"abcd").SerializeToString(),
            "9 dimensions, at most 8",
            id="nine dimensions",
        ),
        pytest.param(
            encode_tensor(np.array([True])).SerializeToString(),
            "checked byte by byte",
            id="bools, whose bytes have to be checked",
        ),
        pytest.param(
            tensor_pb2.Tensor(dtype=FLOAT32, shape=[0], data=b"a").SerializeToString(),
            "after the shape of an empty tensor, expected none",
            id="bytes of nothing",
        ),
        pytest.param(b"", "out of range", id="nothing"),
    ],
)
def test_unexpected_layouts_are_left_to_the_library(data: bytes, words: str) -> None:
    """The reader raises, and the caller parses the message with protobuf."""
    with pytest.raises((IndexError, ValueError), match=words):
        read_tensor(data, 0, len(data))


@given(st.integers(0, 2**64 - 1))
def test_a_number_comes_back(number: int) -> None:
    """A number is read back, with the offset after it."""
    assert read_varint(b"x" + varint(number) + b"x", 1) == (number, 1 + len(varint(number)))


def test_a_number_of_more_than_ten_bytes_is_refused() -> None:
    """Ten bytes hold every number."""
    with pytest.raises(ValueError, match="more than ten bytes"):
        read_varint(b"\xff" * 12, 0)

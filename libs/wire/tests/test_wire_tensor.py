"""Arrays survive encoding and decoding; invalid messages are refused by the name of their field."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from midrib.v1 import tensor_pb2
from midrib.wire import (
    Array,
    InvalidInputError,
    code_from_dtype,
    decode_tensor,
    dtype_from_code,
    encode_int8_rows,
    encode_tensor,
)

FLOAT32 = tensor_pb2.DATA_TYPE_FLOAT32
NAMES = ["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
arrays = st.sampled_from([name for name in NAMES if name != "bfloat16"]).flatmap(
    lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(arrays)
def test_an_array_comes_back_to_the_bit(array: Array) -> None:
    """Shape, type and every bit are kept, the payload of NaN included."""
    back = decode_tensor(encode_tensor(array))
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_bfloat16_travels_as_two_bytes() -> None:
    """bfloat16 is ml_dtypes' type on both sides."""
    array = np.array([[1.5, -2.0]], dtype=ml_dtypes.bfloat16)
    message = encode_tensor(array)
    assert message.data == b"\xc0\x3f\x00\xc0"
    assert decode_tensor(message).tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize("name", NAMES)
def test_every_type_has_one_code(name: str) -> None:
    """The code of a type's name gives the type back."""
    assert dtype_from_code(code_from_dtype(name)).name == name


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(6, dtype=np.float32).reshape(2, 3).T, id="transposed"),
        pytest.param(np.arange(12, dtype=np.int64)[::2], id="strided"),
        pytest.param(np.arange(3, dtype=">f4"), id="big-endian"),
    ],
)
def test_any_layout_is_sent_row_major_and_little_endian(array: Array) -> None:
    """Arrays of every layout are encoded in that of the wire."""
    assert decode_tensor(encode_tensor(array)).tolist() == array.tolist()


def test_decoding_copies_nothing() -> None:
    """The array is a read-only view of the message's bytes."""
    assert not decode_tensor(encode_tensor(np.zeros(3, np.float32))).flags.writeable


@pytest.mark.parametrize(
    "array", [np.zeros(2, complex), np.array(["a"]), np.array([None])], ids=["complex", "str", "object"]
)
def test_a_type_that_cannot_travel_is_named(array: Array) -> None:
    """The error lists the types that can be sent."""
    with pytest.raises(InvalidInputError, match="expected one of bfloat16, bool"):
        encode_tensor(array)


def test_nine_dimensions_cannot_travel() -> None:
    """The wire allows at most eight."""
    with pytest.raises(InvalidInputError, match="9 dimensions, at most 8"):
        encode_tensor(np.zeros([1] * 9, np.float32))


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        pytest.param({"shape": [1], "data": b"abcd"}, "tensor.dtype", "unspecified", id="dtype unspecified"),
        pytest.param(
            {"dtype": 99, "shape": [1], "data": b"abcd"}, "tensor.dtype", r"unknown \(99\)", id="dtype unknown"
        ),
        pytest.param(
            {"dtype": FLOAT32, "shape": [2], "data": b"abcd"}, "tensor.data", "4 bytes.*takes 8", id="too few bytes"
        ),
        pytest.param(
            {"dtype": FLOAT32, "shape": [], "data": b""}, "tensor.data", "0 bytes.*takes 4", id="empty scalar"
        ),
        pytest.param({"dtype": FLOAT32, "shape": [-1], "data": b""}, "tensor.shape", "negative", id="negative"),
        pytest.param(
            {"dtype": FLOAT32, "shape": [1] * 9, "data": b"abcd"}, "tensor.shape", "9 dimensions", id="rank 9"
        ),
        pytest.param(
            {"dtype": FLOAT32, "shape": [2**40, 2**40], "data": b""}, "tensor.shape", "overflows", id="overflow"
        ),
        pytest.param(
            {"dtype": FLOAT32, "shape": [0, 2**62, 2], "data": b""}, "tensor.shape", "overflows", id="empty overflow"
        ),
        pytest.param(
            {"dtype": tensor_pb2.DATA_TYPE_BOOL, "shape": [1], "data": b"\2"}, "tensor.data", "0 or 1", id="bool of 2"
        ),
    ],
)
def test_a_broken_message_is_refused_by_field(message: dict[str, Any], field: str, words: str) -> None:
    """The error names the invalid field."""
    with pytest.raises(InvalidInputError, match=words) as caught:
        decode_tensor(tensor_pb2.Tensor(**message))
    assert caught.value.field == field


@given(
    st.integers(0, 20),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=10),
    st.binary(max_size=64),
)
def test_any_message_is_an_array_or_an_invalid_input(dtype: int, shape: list[int], data: bytes) -> None:
    """Decoding never fails otherwise, and never makes more bytes than the message has."""
    try:
        array = decode_tensor(tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data))  # type: ignore[arg-type] # unknown codes too
    except InvalidInputError:
        return
    assert array.tobytes() == data


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_int8_rows_are_off_by_a_254th_of_their_largest(rows: Array) -> None:
    """Elements differ by the stated bound at most, and the rounding of float32."""
    back = decode_tensor(encode_int8_rows(rows))
    bound = np.abs(rows).max(axis=1, keepdims=True) * (1 / 254 + 1e-6) + np.finfo(np.float32).tiny
    assert back.dtype == np.float32
    assert bool((np.abs(back - rows) <= bound).all())


def test_int8_rows_take_a_byte_an_element() -> None:
    """A message has one byte per element and four per row."""
    message = encode_int8_rows(np.ones((2, 1000), np.float32))
    assert (len(message.data), len(message.row_scales)) == (2000, 8)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_an_int8_row_that_is_not_finite_is_nan(value: float) -> None:
    """The other rows are not affected."""
    back = decode_tensor(encode_int8_rows(np.array([[1, 2], [value, 1]], np.float32)))
    assert np.isnan(back).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(encode_tensor(np.ones((2, 3), np.int8)), id="too-few"),
        pytest.param(encode_tensor(np.ones((1, 3), np.float32)), id="not-int8"),
        pytest.param(encode_tensor(np.ones((1,), np.int8)), id="no-rows"),
    ],
)
def test_scales_that_fit_no_rows_are_refused(message: tensor_pb2.Tensor) -> None:
    """The error names the field."""
    message.row_scales = bytes(4)
    with pytest.raises(InvalidInputError, match="row_scales has 4 bytes beside"):
        decode_tensor(message)

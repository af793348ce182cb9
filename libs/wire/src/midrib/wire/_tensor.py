"""Convert numpy arrays to Tensor messages and back."""

from __future__ import annotations

import math
import sys
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from midrib.v1 import tensor_pb2
from midrib.wire._errors import InvalidInputError

Array: TypeAlias = NDArray[Any]

_MAX_RANK = 8
_MAX_BYTES = 2**63 - 1

_DTYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    tensor_pb2.DATA_TYPE_INT8: np.dtype("i1"),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
    tensor_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_BOOL: np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_NAMES = ", ".join(sorted(dtype.name for dtype in _CODES))


def dtype_from_code(code: int, *, field: str = "dtype") -> np.dtype[Any]:
    """Return the numpy type of a DataType; for bfloat16, that of ml_dtypes.

    field: the place in the request, for the error.  Raises InvalidInputError if the code is unspecified or unknown.
    """
    dtype = _DTYPES.get(code)
    if dtype is None:
        got = "unspecified" if code == tensor_pb2.DATA_TYPE_UNSPECIFIED else f"unknown ({code})"
        raise InvalidInputError(f"{field} is {got}: set it to one of {_NAMES}", field=field)
    return dtype


def code_from_dtype(dtype: str | np.dtype[Any] | type) -> tensor_pb2.DataType:
    """Return the DataType of a numpy type or of its name ("bfloat16" included).

    Raises InvalidInputError if the wire has no such type.
    """
    code = _CODES.get(dtype) if isinstance(dtype, np.dtype) else None
    if code is None:
        try:
            code = _CODES.get(np.dtype(dtype).newbyteorder("<"))
        except TypeError:
            code = None
    if code is None:
        raise InvalidInputError(f"dtype is {dtype!s}, expected one of {_NAMES}: convert it", field="dtype")
    return cast(tensor_pb2.DataType, code)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether an element type is floating. bfloat16 is, although numpy does not count it."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def encode_tensor(array: Array) -> tensor_pb2.Tensor:
    """Return the message of an array [...] of any shape, layout and byte order; makes one copy.

    Raises InvalidInputError for an element type or a rank that the wire does not have.
    """
    if array.ndim > _MAX_RANK:
        raise InvalidInputError(
            f"array has {array.ndim} dimensions, at most {_MAX_RANK} can travel: reshape it", field="shape"
        )
    code = code_from_dtype(array.dtype)
    little = array if sys.byteorder == "little" and array.dtype.isnative else array.astype(_DTYPES[code])
    return tensor_pb2.Tensor(dtype=code, shape=array.shape, data=little.tobytes())


def encode_int8_rows(rows: Array) -> tensor_pb2.Tensor:
    """Return the message of floating rows [rows, width] with one byte per element and one scale per row.

    Each element differs by at most 1/254 of the largest of its row; rows that are not finite are decoded as NaN.
    Source: Jacob et al. 2018, section 2.1, symmetric and by row.
    """
    wide = rows.astype(np.float32)
    scales = np.abs(wide).max(axis=1, keepdims=True, initial=0.0) / np.float32(127)
    scales = np.where(np.isfinite(scales), scales, np.float32(np.nan))
    with np.errstate(invalid="ignore"):
        steps = np.rint(wide / np.where(scales == 0, np.float32(1), scales)).astype(np.int8)
    data = scales.astype("<f4").tobytes()
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_INT8, shape=rows.shape, data=steps.tobytes(), row_scales=data)


def decode_tensor(
    message: tensor_pb2.Tensor, *, field: str = "tensor", data: bytes | memoryview | None = None
) -> Array:
    """Return the array [...] of a message: a read-only view of its bytes, or a float32 copy if its rows have scales.

    field: the place of the tensor in its request, for the error.
    data: the bytes of the array, if they were read separately and the message lacks them.
    Raises InvalidInputError, naming the field, if dtype, shape and bytes do not agree.
    """
    dtype = dtype_from_code(message.dtype, field=f"{field}.dtype")
    shape = tuple(message.shape)
    expected = checked_size(shape, dtype.itemsize, field=f"{field}.shape")
    if data is None:
        data = message.data  # a copy each time
    if len(data) != expected:
        raise InvalidInputError(
            f"{field}.data has {len(data)} bytes, shape {list(shape)} of {dtype.name} "
            f"takes {expected}: send exactly product(shape) x itemsize bytes",
            field=f"{field}.data",
        )
    array = np.frombuffer(data, dtype=dtype)
    if dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
        raise InvalidInputError(f"{field}.data has bytes over 1: a bool is one byte, 0 or 1", field=f"{field}.data")
    return _scaled(array.reshape(shape), message.row_scales, field) if message.row_scales else array.reshape(shape)


def _scaled(rows: Array, data: bytes, field: str) -> Array:
    """Return int8 rows [rows, width] times their scales, in float32.

    Raises InvalidInputError for other rows, or another number of scales.
    """
    if rows.dtype != np.int8 or rows.ndim != 2 or len(data) != 4 * len(rows):
        raise InvalidInputError(
            f"{field}.row_scales has {len(data)} bytes beside {rows.dtype.name} {list(rows.shape)}: "
            "send four bytes for each row, and only with int8 [rows, width]",
            field=f"{field}.row_scales",
        )
    with np.errstate(invalid="ignore"):
        scaled: Array = rows * np.frombuffer(data, "<f4")[:, None]
    return scaled


def checked_size(shape: tuple[int, ...], itemsize: int, *, field: str) -> int:
    """Return the number of bytes that a shape takes. Raises InvalidInputError for an impossible shape."""
    if len(shape) > _MAX_RANK:
        raise InvalidInputError(f"{field} has {len(shape)} dimensions, at most {_MAX_RANK} are allowed", field=field)
    if any(size < 0 for size in shape):
        raise InvalidInputError(f"{field} is {list(shape)}: no dimension may be negative", field=field)
    # Zeros are left out: [0, 2**62, 2**62] is empty, yet no array library can hold its shape.
    if math.prod(size for size in shape if size) * itemsize > _MAX_BYTES:
        raise InvalidInputError(f"{field} is {list(shape)}: its size overflows 63 bits", field=field)
    return math.prod(shape) * itemsize

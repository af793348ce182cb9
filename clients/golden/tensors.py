"""Tensors of every element type. Each number is exact in its type."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from midrib.v1.tensor_pb2 import DATA_TYPE_INT8, Tensor
from midrib.wire import Array

_FLOATING = {
    "float32": ["1.17549435e-38", "1e-45", "3.4028235e38", "0.1"],
    "float16": ["6.1035156e-05", "6e-08", "65504", "0.1"],
    "bfloat16": ["1.1754944e-38", "9.2e-41", "3.3895314e38", "0.1"],
    "float64": ["2.2250738585072014e-308", "5e-324", "1.7976931348623157e308", "0.1"],
}
# Some languages read an int64 as a float64, which is exact up to 2**53.
_INTEGERS = {
    "int8": (-(2**7), 2**7 - 1),
    "uint8": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**53), 2**53),
}

# An embedding of type int8, with steps of 1, 0.5 and 0.
SCALED = Tensor(
    dtype=DATA_TYPE_INT8,
    shape=[3, 2],
    data=np.array([127, -3, 127, 1, 0, 0], dtype=np.int8).tobytes(),
    row_scales=np.array([1, 0.5, 0], dtype="<f4").tobytes(),
)
SCALED_NUMBERS = np.array([[127, -3], [63.5, 0.5], [0, 0]])


def tensors() -> Iterator[tuple[str, Array]]:
    """Yield every case: its name and its array."""
    for dtype, numbers in _FLOATING.items():
        numbers = ["0", "-0", "1", "-2.5", "Infinity", "-Infinity", "NaN", *numbers]
        yield dtype, np.array([float(number) for number in numbers]).astype(dtype)
    for dtype, (lowest, highest) in _INTEGERS.items():
        yield dtype, np.array([[0, 1, lowest], [highest, 2, 3]], dtype=dtype)
    yield "bool", np.array([True, False, True])
    yield "scalar", np.array(7, dtype=np.float32)
    yield "no rows", np.empty((0, 4), dtype=np.float32)
    yield "rank 8", np.arange(4, dtype=np.int32).reshape(1, 1, 2, 1, 1, 2, 1, 1)

"""From the elements of a ModelInferRequest to the input of an item."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from midrib.oip.v2.inference_pb2 import ModelInferRequest
from midrib.server._calls.embedder import ItemInput
from midrib.server._intake.media_input import Media
from midrib.server._large import Buffer
from midrib.server._oip.large_request import InferData
from midrib.v1 import tensor_pb2
from midrib.wire import (
    Array,
    InvalidInputError,
    LimitExceededError,
    UnsupportedError,
    array_bytes,
    decode_tensor,
    dtype_from_code,
)

TENSOR_INPUT = "input"
BYTES = "BYTES"
# The protocol's datatypes, without BYTES and the unsigned ones that no backbone takes.
DATATYPES: dict[str, tensor_pb2.DataType] = {
    "BOOL": tensor_pb2.DATA_TYPE_BOOL,
    "UINT8": tensor_pb2.DATA_TYPE_UINT8,
    "INT8": tensor_pb2.DATA_TYPE_INT8,
    "INT16": tensor_pb2.DATA_TYPE_INT16,
    "INT32": tensor_pb2.DATA_TYPE_INT32,
    "INT64": tensor_pb2.DATA_TYPE_INT64,
    "FP16": tensor_pb2.DATA_TYPE_FLOAT16,
    "BF16": tensor_pb2.DATA_TYPE_BFLOAT16,
    "FP32": tensor_pb2.DATA_TYPE_FLOAT32,
    "FP64": tensor_pb2.DATA_TYPE_FLOAT64,
}
# The field of `contents` for the elements of each datatype; it has none for FP16 and BF16.
_TYPED = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
# Larger tensors are converted in a thread. Typed contents are copied in slices: a slice holds the GIL, and with it the
# event loop, for less than a millisecond.
_LARGE_ELEMENTS = 2**14
_MAX_RANK = 8

InferTensor: TypeAlias = ModelInferRequest.InferInputTensor


async def read_input(request: ModelInferRequest, max_rows: int, data: InferData | None = None) -> ItemInput:
    """Return the input of a request: an array [rows, ...], or images or texts.

    max_rows: how many BYTES elements are accepted.  data: those that lie apart from the request.
    Raises InvalidInputError for an input that the protocol does not allow, UnsupportedError for shared memory,
    LimitExceededError for too many elements.
    """
    if len(request.inputs) != 1:
        names = [tensor.name for tensor in request.inputs]
        raise InvalidInputError(
            f"the request has {len(names)} inputs {names}, a backbone takes one: ModelMetadata lists the choices",
            field="inputs",
        )
    tensor = request.inputs[0]
    data = data or InferData(list(request.raw_input_contents), list(tensor.contents.bytes_contents), {})
    _check_place(data, tensor)
    _check_rank(tensor)
    if tensor.datatype == BYTES:
        return _media(tensor, _elements(data, tensor, max_rows))
    code = _code(tensor)
    typed = _typed_numbers(data, tensor)
    if math.prod(tensor.shape) <= _LARGE_ELEMENTS and len(typed) <= _LARGE_ELEMENTS:
        return _numbers(data, tensor, typed, code)
    return await asyncio.to_thread(_numbers, data, tensor, typed, code)


def _check_place(data: InferData, tensor: InferTensor) -> None:
    """Raise an error unless the elements are in the request, once."""
    if "shared_memory_region" in tensor.parameters:
        raise UnsupportedError("shared memory is not offered here: send the elements in the request")
    raw = len(data.raw)
    if raw > 1 or (raw and tensor.HasField("contents")):
        raise InvalidInputError(
            f"the request has {raw} raw contents beside 1 input: send its elements once, raw or typed",
            field="raw_input_contents",
        )


def _check_rank(tensor: InferTensor) -> None:
    """Raise InvalidInputError for too many dimensions: multiplying thousands of large ones takes hundreds of ms."""
    if len(tensor.shape) > _MAX_RANK:
        raise InvalidInputError(
            f"inputs[0].shape has {len(tensor.shape)} dimensions, at most {_MAX_RANK} are allowed",
            field="inputs[0].shape",
        )


def _code(tensor: InferTensor) -> tensor_pb2.DataType:
    """Return the dtype of a tensor of numbers. Raises InvalidInputError for another name or datatype."""
    if tensor.name != TENSOR_INPUT:
        raise InvalidInputError(
            f"input {tensor.name!r} is {tensor.datatype or 'without a datatype'}: a tensor goes by the name "
            f"{TENSOR_INPUT!r}, images and texts by theirs as {BYTES}",
            field="inputs[0].name",
        )
    code = DATATYPES.get(tensor.datatype)
    if code is None:
        raise InvalidInputError(
            f"datatype {tensor.datatype!r} is not taken: send one of {', '.join(DATATYPES)}, or {BYTES} for media",
            field="inputs[0].datatype",
        )
    return code


def _numbers(data: InferData, tensor: InferTensor, typed: Any, code: tensor_pb2.DataType) -> Array:
    """Return a tensor of numbers [rows, ...]. typed: its typed contents."""
    content = data.raw[0] if data.raw else _converted(tensor, typed, code)
    dtype, shape = dtype_from_code(code), tuple(tensor.shape)
    is_plain = dtype != np.bool_ and min(shape, default=0) > 0
    if is_plain and len(content) == math.prod(shape) * dtype.itemsize:
        return np.frombuffer(content, dtype).reshape(shape)
    # Checks the bytes of a bool, and says why shape and bytes do not agree.
    return decode_tensor(tensor_pb2.Tensor(dtype=code, shape=shape), field="inputs[0]", data=content)


def _typed_numbers(data: InferData, tensor: InferTensor) -> Any:
    """Return the typed contents for the tensor's datatype, a list or an array; empty for a datatype without a field."""
    field = _TYPED.get(tensor.datatype)
    if field is None:
        return ()
    return data.floats[field] if field in data.floats else getattr(tensor.contents, field)


def _converted(tensor: InferTensor, elements: Any, code: int) -> Buffer:
    """Return the bytes of typed contents in the tensor's datatype.

    Raises InvalidInputError for elements that do not fit.
    """
    if tensor.datatype not in _TYPED:
        raise InvalidInputError(
            f"{tensor.datatype} has no place in `contents`: send it in raw_input_contents", field="inputs[0].contents"
        )
    array = np.empty(len(elements), dtype_from_code(code))
    for start in range(0, len(elements), _LARGE_ELEMENTS):
        wide: Array = np.array(elements[start : start + _LARGE_ELEMENTS])
        narrow = wide.astype(array.dtype)
        if array.dtype.kind in "iu" and (narrow != wide).any():
            raise InvalidInputError(f"some elements do not fit into {tensor.datatype}", field="inputs[0].contents")
        array[start : start + _LARGE_ELEMENTS] = narrow
    return array_bytes(array)


def _media(tensor: InferTensor, elements: Sequence[Buffer]) -> Media:
    """Return media from a BYTES tensor. Raises InvalidInputError for another name."""
    if tensor.name == "images":
        return Media(tensor.name, elements)
    if tensor.name == "texts":
        return Media(tensor.name, [_text(index, element) for index, element in enumerate(elements)])
    raise InvalidInputError(
        f"input {tensor.name!r} is {BYTES}: name it 'images' or 'texts', as ModelMetadata does", field="inputs[0].name"
    )


def _elements(data: InferData, tensor: InferTensor, max_rows: int) -> Sequence[Buffer]:
    """Return the elements of a BYTES tensor.

    Raises InvalidInputError or LimitExceededError for another shape, or too many rows.
    """
    shape = list(tensor.shape)
    count = math.prod(shape)
    if len(shape) not in (1, 2) or min(shape, default=0) < 0 or (len(shape) == 2 and shape[1] != 1):
        raise InvalidInputError(
            f"input {tensor.name!r} has shape {shape}, {BYTES} take [rows] or [rows, 1]", field="inputs[0].shape"
        )
    if count > max_rows:
        raise LimitExceededError(f"input {tensor.name!r} has {count} rows, at most {max_rows} are taken: split it")
    elements = _split(data.raw[0], count) if data.raw else data.elements
    if len(elements) != count:
        raise InvalidInputError(
            f"input {tensor.name!r} has {len(elements)} elements, its shape {shape} takes {count}", field="inputs[0]"
        )
    return elements


def _split(data: Buffer, count: int) -> list[Buffer]:
    """Return the elements of raw BYTES: each is its length, four bytes little-endian, and then its bytes.

    Raises InvalidInputError if an element is cut off.
    """
    elements: list[Buffer] = []
    position = 0
    while position < len(data) and len(elements) <= count:
        start = position + 4
        position = start + int.from_bytes(data[position:start], "little")
        elements.append(data[start:position])
        if start > len(data) or position > len(data):
            raise InvalidInputError(
                f"raw_input_contents[0] ends within element {len(elements) - 1}: send each as its length in four "
                "bytes, little-endian, and then its bytes",
                field="raw_input_contents[0]",
            )
    return elements


def _text(index: int, element: Buffer) -> Buffer | str:
    """Return a text; that of a large message is decoded later, in another thread.

    Raises InvalidInputError if it is not UTF-8.
    """
    if isinstance(element, memoryview):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"texts[{index}] is not UTF-8 ({error.reason}): encode it as UTF-8",
            field=f"input.texts[{index}]",
        ) from error

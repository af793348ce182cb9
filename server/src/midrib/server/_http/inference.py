"""/v2 as the Open Inference Protocol has it over HTTP, with tensors as JSON.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from pydantic import Field

from midrib.registry import ImageInput, TextInput
from midrib.server._engine.description import ServedDescription
from midrib.server._http.body import MAX_COMMAS, AnswerFields, Fields, free
from midrib.server._http.call import CallAnswer
from midrib.server._http.embeddings import NUMBERS_AT_ONCE, check_finite
from midrib.server._http.inputs import decoded_images, image_input, text_input
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import Array, InvalidInputError, encode_tensor

_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_DATATYPES = {name: datatype for datatype, name in _DTYPES.items()}
# Numbers that numpy converts in one call that holds the GIL: about a millisecond.
_CONVERTED_AT_ONCE = 2**14
_MAX_ELEMENTS = MAX_COMMAS + 1


class InferTensor(Fields):
    """One input."""

    name: str
    """"texts", "images" (base64), or "input", the tensor of the backbone."""
    shape: list[int] = Field(max_length=8)
    datatype: str
    """BYTES for texts and images, else the type of the numbers, such as FP32."""
    data: list[Any]
    """The elements, flat or nested by rows."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Accepted and ignored."""


class InferBody(Fields):
    """The body of POST /v2/models/{name}/infer."""

    inputs: list[InferTensor] = Field(min_length=1, max_length=1)
    id: str | None = None
    """Returned with the answer."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """`normalize` (a boolean) and `dimensions` (an integer)."""
    outputs: list[dict[str, Any]] = Field(default_factory=list, max_length=1)
    """Accepted and ignored: the output is always `embedding`, as JSON."""


class TensorMetadata(AnswerFields):
    """An input or an output; a size of -1 may vary."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(AnswerFields):
    """The answer of GET /v2/models/{name}."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InferOutput(TensorMetadata):
    """The embedding, flat."""

    data: list[float]


class Inference(AnswerFields):
    """The answer of POST /v2/models/{name}/infer."""

    id: str = ""
    model_name: str
    model_version: str
    outputs: list[InferOutput]


def infer_request(body: InferBody, described: ServedDescription) -> embedding_pb2.EmbedRequest:
    """Return the same call as a request of Midrib's own protocol. The data of the body are freed.

    Raises InvalidInputError for parameters or data of another form.
    """
    options = embedding_pb2.Options(dtype=tensor_pb2.DATA_TYPE_FLOAT32)
    for name, value in body.parameters.items():
        if name == "normalize" and isinstance(value, bool):
            options.normalize = value
        elif name == "dimensions" and isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63:
            options.dimensions = value
        else:
            raise InvalidInputError(
                f"parameter {name[:40]!r} is unknown or has another type: send normalize (a boolean) or dimensions (an "
                "integer)",
                field="parameters",
            )
    try:
        message = _input(body.inputs[0])
    finally:
        free(body.inputs[0].data)
    return embedding_pb2.EmbedRequest(backbone=described.name, input=message, options=options)


async def infer_parts(answer: CallAnswer, body: InferBody) -> AsyncIterator[bytes]:
    """Yield the JSON of the response in parts, and let the event loop run between them.

    Raises InternalError if the numbers are not finite.
    """
    check_finite(answer)
    output = {"name": "embedding", "datatype": "FP32", "shape": list(answer.features.shape)}
    response = {"model_name": answer.by.name, "model_version": answer.by.revision, "outputs": [output]}
    text = json.dumps(response if body.id is None else {"id": body.id, **response})
    yield text.removesuffix("}]}").encode() + b', "data": ['
    numbers = answer.features.reshape(-1)
    for start in range(0, numbers.size, NUMBERS_AT_ONCE):
        await asyncio.sleep(0)
        part = json.dumps(numbers[start : start + NUMBERS_AT_ONCE].tolist(), allow_nan=False)
        yield (b"," if start else b"") + part[1:-1].encode()
    yield b"]}]}"


def model_metadata(described: ServedDescription) -> dict[str, Any]:
    """Return the inputs and the output of a backbone; a size of -1 may vary."""
    spec = described.input
    sizes = [-1, *(-1 if size is None else size for size in spec.tensor.shape)]
    inputs = [{"name": "input", "datatype": _DATATYPES.get(spec.tensor.dtype, "FP32"), "shape": sizes}]
    if isinstance(spec, ImageInput | TextInput):
        media = "images" if isinstance(spec, ImageInput) else "texts"
        inputs.append({"name": media, "datatype": "BYTES", "shape": [-1]})
    return {
        "name": described.name,
        "versions": [described.revision],
        "platform": "midrib",
        "inputs": inputs,
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, described.num_features]}],
    }


def _input(tensor: InferTensor) -> embedding_pb2.Input:
    """Return the input message of a tensor. Raises InvalidInputError for another datatype or shape."""
    if tensor.datatype == "BYTES":
        entries = _flat(tensor.data)
        if tensor.name not in ("texts", "images") or not all(isinstance(entry, str) for entry in entries):
            raise _unexpected(tensor)
        return image_input(decoded_images(entries)) if tensor.name == "images" else text_input(entries)
    if tensor.name != "input" or tensor.datatype not in _DTYPES:
        raise _unexpected(tensor)
    return embedding_pb2.Input(tensor=encode_tensor(_array(tensor)))


def _array(tensor: InferTensor) -> Array:
    """Return the array [rows, ...] of a tensor. Raises InvalidInputError for data that do not fit."""
    flat = _flat(tensor.data)
    # NumPy raises other errors for long dimensions beside one of 0.
    elements = math.prod(max(size, 1) for size in tensor.shape)
    if min(tensor.shape, default=0) < 0 or elements > _MAX_ELEMENTS or math.prod(tensor.shape) != len(flat):
        raise InvalidInputError(
            f"inputs[0] has shape {str(tensor.shape)[:100]} and {len(flat)} elements, expected as many as the shape "
            "says",
            field="inputs[0].shape",
        )
    kinds = (int, float) if tensor.datatype.startswith("FP") else (bool if tensor.datatype == "BOOL" else int,)
    if not all(type(element) in kinds for element in flat):
        raise _unexpected(tensor)
    dtype = np.dtype(_DTYPES[tensor.datatype])
    array = np.empty(len(flat), dtype)
    try:
        with np.errstate(over="raise"):
            for start in range(0, len(flat), _CONVERTED_AT_ONCE):
                array[start : start + _CONVERTED_AT_ONCE] = flat[start : start + _CONVERTED_AT_ONCE]
    except (OverflowError, FloatingPointError) as error:
        raise _unexpected(tensor) from error
    return array.reshape(tensor.shape)


def _flat(data: list[Any]) -> list[Any]:
    """Return the elements of a list that is flat or nested by one level or more."""
    while data and all(isinstance(entry, list) for entry in data):
        data = [element for entry in data for element in entry]
    return data


def _unexpected(tensor: InferTensor) -> InvalidInputError:
    return InvalidInputError(
        f"inputs[0] is {tensor.name[:40]!r} of {tensor.datatype[:40]!r}: send 'texts' or 'images' of BYTES with "
        f"strings, or 'input' of {', '.join(_DTYPES)} with numbers that fit",
        field="inputs[0]",
    )

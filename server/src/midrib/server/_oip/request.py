"""From a ModelInferRequest to the engine's own EmbedRequest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from midrib.oip.v2 import inference_pb2
from midrib.v1 import embedding_pb2, tensor_pb2
from midrib.wire import (
    Array,
    InvalidInputError,
    LimitExceededError,
    UnsupportedError,
    decode_tensor,
    dtype_from_code,
    encode_tensor,
)

OUTPUT = "embedding"
TENSOR_INPUT = "input"
BYTES = "BYTES"
# The protocol's datatypes, but for BYTES and the unsigned ones that no backbone takes.
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
# Where `contents` holds the elements of a datatype; FP16 and BF16 have no place in it.
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
# What a request may ask for: the oneof's field, and what it does.
_PARAMETERS = {
    "normalize": "bool_param",
    "dimensions": "int64_param",
    "dtype": "string_param",
    "timeout": "int64_param",
    "priority": "uint64_param",
    "triton_enable_empty_final_response": "bool_param",
}


def embed_request(request: inference_pb2.ModelInferRequest, max_rows: int) -> embedding_pb2.EmbedRequest:
    """The same request in Midrib's own message.

    max_rows: how many BYTES elements are taken.
    Raises InvalidInputError for what the protocol does not allow, UnsupportedError for what this server does not
    offer, LimitExceededError for too many elements.
    """
    if len(request.inputs) != 1:
        names = [tensor.name for tensor in request.inputs]
        raise InvalidInputError(
            f"the request has {len(names)} inputs {names}, a backbone takes one: ModelMetadata lists the choices",
            field="inputs",
        )
    _check_outputs(request)
    return embedding_pb2.EmbedRequest(
        backbone=request.model_name,
        revision=request.model_version or None,
        input=_input(request.inputs[0], list(request.raw_input_contents), max_rows),
        options=_options(request),
    )


def parameter(parameters: Mapping[str, inference_pb2.InferParameter], name: str) -> Any:
    """The value of a parameter; None where it is absent.

    Raises InvalidInputError where it is of another type.
    """
    if name not in parameters:
        return None
    wanted, got = _PARAMETERS[name], parameters[name].WhichOneof("parameter_choice")
    if got != wanted and {got, wanted} != {"int64_param", "uint64_param"}:
        raise InvalidInputError(f"parameter {name!r} is a {got}, expected a {wanted}", field=f"parameters[{name}]")
    value = getattr(parameters[name], got or wanted)
    if got == "uint64_param" and wanted == "int64_param" and value >= 2**63:
        raise InvalidInputError(
            f"parameter {name!r} is {value}: an int64 ends at 2**63 - 1", field=f"parameters[{name}]"
        )
    return value


def _options(request: inference_pb2.ModelInferRequest) -> embedding_pb2.Options:
    unknown = sorted(set(request.parameters) - set(_PARAMETERS))
    if unknown:
        raise InvalidInputError(
            f"parameter {unknown[0]!r} is not known here: there are {', '.join(_PARAMETERS)}",
            field=f"parameters[{unknown[0]}]",
        )
    asked = {name: parameter(request.parameters, name) for name in ("normalize", "dimensions", "dtype")}
    dtype = asked["dtype"]
    if dtype is not None and dtype not in ("FP16", "BF16", "FP32", "FP64"):
        raise InvalidInputError(
            f"parameter 'dtype' is {dtype!r}, expected one of FP16, BF16, FP32, FP64", field="parameters[dtype]"
        )
    return embedding_pb2.Options(
        dtype=None if dtype is None else DATATYPES[dtype],
        normalize=bool(asked["normalize"]),
        dimensions=asked["dimensions"],
    )


def _check_outputs(request: inference_pb2.ModelInferRequest) -> None:
    for output in request.outputs:
        if output.name != OUTPUT:
            raise InvalidInputError(f"there is no output {output.name!r}, only {OUTPUT!r}", field="outputs")
        if output.parameters:
            raise UnsupportedError(
                f"output parameters {sorted(output.parameters)} are not offered here: leave them out"
            )


def _input(
    tensor: inference_pb2.ModelInferRequest.InferInputTensor, raw: list[bytes], max_rows: int
) -> embedding_pb2.Input:
    if "shared_memory_region" in tensor.parameters:
        raise UnsupportedError("shared memory is not offered here: send the elements in the request")
    if len(raw) > 1 or (raw and tensor.HasField("contents")):
        raise InvalidInputError(
            f"the request has {len(raw)} raw contents beside 1 input: send its elements once, raw or typed",
            field="raw_input_contents",
        )
    if tensor.datatype == BYTES:
        return _media(tensor, _elements(tensor, raw, max_rows))
    if tensor.name != TENSOR_INPUT:
        raise InvalidInputError(
            f"input {tensor.name!r} is {tensor.datatype or 'without a datatype'}: a tensor goes by the name "
            f"{TENSOR_INPUT!r}, images and texts by theirs as {BYTES}",
            field="inputs[0].name",
        )
    return embedding_pb2.Input(tensor=_numbers(tensor, raw))


def _numbers(tensor: inference_pb2.ModelInferRequest.InferInputTensor, raw: list[bytes]) -> tensor_pb2.Tensor:
    code = DATATYPES.get(tensor.datatype)
    if code is None:
        raise InvalidInputError(
            f"datatype {tensor.datatype!r} is not taken: send one of {', '.join(DATATYPES)}, or {BYTES} for media",
            field="inputs[0].datatype",
        )
    data = raw[0] if raw else _typed(tensor, code)
    message = tensor_pb2.Tensor(dtype=code, shape=tensor.shape, data=data)
    decode_tensor(message, field="inputs[0]")
    return message


def _typed(tensor: inference_pb2.ModelInferRequest.InferInputTensor, code: int) -> bytes:
    field = _TYPED.get(tensor.datatype)
    if field is None:
        raise InvalidInputError(
            f"{tensor.datatype} has no place in `contents`: send it in raw_input_contents", field="inputs[0].contents"
        )
    wide: Array = np.array(getattr(tensor.contents, field))
    dtype = dtype_from_code(code)
    narrow = wide.astype(dtype)
    if dtype.kind in "iu" and (narrow != wide).any():
        raise InvalidInputError(f"some elements do not fit into {tensor.datatype}", field="inputs[0].contents")
    return encode_tensor(narrow).data


def _media(tensor: inference_pb2.ModelInferRequest.InferInputTensor, elements: list[bytes]) -> embedding_pb2.Input:
    if tensor.name == "images":
        return embedding_pb2.Input(images=embedding_pb2.Images(encoded=elements))
    if tensor.name == "texts":
        return embedding_pb2.Input(texts=embedding_pb2.Texts(texts=_decoded(elements)))
    raise InvalidInputError(
        f"input {tensor.name!r} is {BYTES}: name it 'images' or 'texts', as ModelMetadata does", field="inputs[0].name"
    )


def _elements(tensor: inference_pb2.ModelInferRequest.InferInputTensor, raw: list[bytes], max_rows: int) -> list[bytes]:
    shape = list(tensor.shape)
    count = math.prod(shape)
    if len(shape) not in (1, 2) or min(shape, default=0) < 0 or (len(shape) == 2 and shape[1] != 1):
        raise InvalidInputError(
            f"input {tensor.name!r} has shape {shape}, {BYTES} take [rows] or [rows, 1]", field="inputs[0].shape"
        )
    if count > max_rows:
        raise LimitExceededError(f"input {tensor.name!r} has {count} rows, at most {max_rows} are taken: split it")
    elements = _split(raw[0], count) if raw else list(tensor.contents.bytes_contents)
    if len(elements) != count:
        raise InvalidInputError(
            f"input {tensor.name!r} has {len(elements)} elements, its shape {shape} takes {count}", field="inputs[0]"
        )
    return elements


def _split(data: bytes, count: int) -> list[bytes]:
    """The elements of raw BYTES: each is its length, four bytes little-endian, and so many bytes."""
    elements: list[bytes] = []
    position = 0
    while position < len(data) and len(elements) <= count:
        start = position + 4
        position = start + int.from_bytes(data[position:start], "little")
        elements.append(data[start:position])
        if start > len(data) or position > len(data):
            raise InvalidInputError(
                f"raw_input_contents[0] ends within element {len(elements) - 1}: each is its length in four "
                "bytes, little-endian, then so many bytes",
                field="raw_input_contents[0]",
            )
    return elements


def _decoded(elements: list[bytes]) -> list[str]:
    texts = []
    for index, element in enumerate(elements):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"texts[{index}] is no UTF-8 ({error.reason}): encode it so", field=f"input.texts[{index}]"
            ) from error
    return texts

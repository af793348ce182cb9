"""A ModelInferRequest as a call of the embedder, and its response."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from midrib.oip.v2.inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from midrib.server._calls.embedder import Embedded, ItemInput, OpenCall, RequestEmbedder
from midrib.server._calls.requests import Caller
from midrib.server._large import Buffer
from midrib.server._oip.contents import DATATYPES, read_input
from midrib.server._oip.large_request import InferCall
from midrib.v1 import embedding_pb2
from midrib.wire import InvalidInputError, UnsupportedError, array_bytes, code_from_dtype, varint

OUTPUT = "embedding"
DATATYPE_NAMES = {code: name for name, code in DATATYPES.items()}
_RAW_OUTPUT_TAG = b"\x32"  # raw_output_contents, the last field of a response
_FINAL_PARAMETER = "triton_enable_empty_final_response"
# The parameters of a request, each with the field of the oneof that holds it.
_PARAMETERS = {
    "normalize": "bool_param",
    "dimensions": "int64_param",
    "dtype": "string_param",
    "timeout": "int64_param",
    "priority": "uint64_param",
    _FINAL_PARAMETER: "bool_param",
}
_OUTPUT_DATATYPES = ("FP16", "BF16", "FP32", "FP64")


async def open_request(embedder: RequestEmbedder, infer: InferCall, caller: Caller) -> tuple[OpenCall, ItemInput]:
    """Return the call that a request makes, and its input.

    Raises InvalidInputError for a request that the protocol does not allow, UnsupportedError for a feature that this
    server lacks, LimitExceededError for too many elements, and the errors of `RequestEmbedder.open`.
    """
    request, data = infer
    _check_outputs(request)
    opening = embedding_pb2.Open(
        backbone=request.model_name, revision=request.model_version or None, options=_options(request)
    )
    _parameter(request.parameters, _FINAL_PARAMETER)
    call = embedder.open(opening, _sooner(caller, _parameter(request.parameters, "timeout")))
    return call, await read_input(request, call.loaded.intake.max_rows, data)


def infer_response(embedded: Embedded, request_id: str, *, is_final: bool) -> list[Buffer]:
    """Return the bytes of the ModelInferResponse with an embedding, in parts: its data are not copied.

    is_final: whether the client asked for a mark on the last response of each request; every request has one.
    """
    features = embedded.features
    output = ModelInferResponse.InferOutputTensor(
        name=OUTPUT, datatype=datatype(features.dtype.name), shape=features.shape
    )
    head = ModelInferResponse(
        model_name=embedded.by.name,
        model_version=embedded.by.revision,
        id=request_id,
        outputs=[output],
        parameters={"triton_final_response": InferParameter(bool_param=True)} if is_final else None,
    )
    data = array_bytes(features)
    return [head.SerializeToString(), _RAW_OUTPUT_TAG + varint(len(data)), data]


def wants_final_mark(request: ModelInferRequest) -> bool:
    """Return whether the client asked for a mark on the last response of the request."""
    return _FINAL_PARAMETER in request.parameters and request.parameters[_FINAL_PARAMETER].bool_param


def datatype(dtype: str) -> str:
    """Return the protocol's name of a numpy type."""
    return DATATYPE_NAMES[code_from_dtype(dtype)]


def _parameter(parameters: Mapping[str, InferParameter], name: str) -> Any:
    """Return the value of a parameter, or None if the request lacks it. Raises InvalidInputError for another type."""
    if name not in parameters:
        return None
    expected, kind = _PARAMETERS[name], parameters[name].WhichOneof("parameter_choice")
    if kind != expected and {kind, expected} != {"int64_param", "uint64_param"}:
        raise InvalidInputError(f"parameter {name!r} is a {kind}, expected a {expected}", field=f"parameters[{name}]")
    value = getattr(parameters[name], kind or expected)
    if kind == "uint64_param" and expected == "int64_param" and value >= 2**63:
        raise InvalidInputError(
            f"parameter {name!r} is {value}, expected at most 2**63 - 1: send it as int64_param",
            field=f"parameters[{name}]",
        )
    return value


def _options(request: ModelInferRequest) -> embedding_pb2.Options:
    """Return the options of a request. Raises InvalidInputError for an unknown parameter or dtype."""
    unknown = sorted(set(request.parameters) - set(_PARAMETERS))
    if unknown:
        raise InvalidInputError(
            f"parameter {unknown[0]!r} is not known here: there are {', '.join(_PARAMETERS)}",
            field=f"parameters[{unknown[0]}]",
        )
    values = {name: _parameter(request.parameters, name) for name in ("normalize", "dimensions", "dtype")}
    dtype = values["dtype"]
    if dtype is not None and dtype not in _OUTPUT_DATATYPES:
        raise InvalidInputError(
            f"parameter 'dtype' is {dtype!r}, expected one of {', '.join(_OUTPUT_DATATYPES)}", field="parameters[dtype]"
        )
    return embedding_pb2.Options(
        dtype=None if dtype is None else DATATYPES[dtype],
        normalize=bool(values["normalize"]),
        dimensions=values["dimensions"],
    )


def _check_outputs(request: ModelInferRequest) -> None:
    """Raise InvalidInputError for an unknown output, UnsupportedError for parameters of an output."""
    for output in request.outputs:
        if output.name != OUTPUT:
            raise InvalidInputError(
                f"there is no output {output.name!r}, only {OUTPUT!r}",
                field="outputs",
            )
        if output.parameters:
            raise UnsupportedError(
                f"output parameters {sorted(output.parameters)} are not offered here: leave them out"
            )


def _sooner(caller: Caller, timeout_us: int | None) -> Caller:
    """Return the caller with the earlier of its deadline and the request's own timeout in microseconds."""
    if not timeout_us:
        return caller
    deadline = time.monotonic() + timeout_us / 1e6
    return caller._replace(deadline=deadline if caller.deadline is None else min(deadline, caller.deadline))

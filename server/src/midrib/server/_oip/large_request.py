"""Reads large ModelInferRequests without copying their data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from midrib.oip.v2.inference_pb2 import InferTensorContents, ModelInferRequest
from midrib.server._grpc.codecs.fast import written
from midrib.server._grpc.decoding import Codec, never_fast
from midrib.server._intake.large_messages import WireField, WireMessage
from midrib.server._large import Buffer
from midrib.wire import Array, InvalidInputError, varint

_INPUTS, _RAW = 5, 7
_CONTENTS, _ELEMENTS = 5, 8
# The fields of typed contents whose numbers lie in a message as in an array.
_FLOATS: dict[int, tuple[str, np.dtype[Any]]] = {
    6: ("fp32_contents", np.dtype("<f4")),
    7: ("fp64_contents", np.dtype("<f8")),
}
# Numbers are given to protobuf's library in parts: it copies each part while it holds the GIL.
_STEP_BYTES = 2**18
_NUMBER_BYTES = 10  # the most of an integer; a longer one is malformed

InferTensor = ModelInferRequest.InferInputTensor


class InferData(NamedTuple):
    """The data of a request that lie apart from its message.

    raw: the raw contents.  elements: the typed contents of BYTES.  floats: typed numbers, by the name of their field.
    """

    raw: Sequence[Buffer]
    elements: list[Buffer]
    floats: dict[str, Array]


class InferCall(NamedTuple):
    """A request. data: None if the message has them."""

    message: ModelInferRequest
    data: InferData | None


def read_infer(data: bytes) -> InferCall:
    """Return a request that protobuf's library reads. Raises DecodeError."""
    return InferCall(ModelInferRequest.FromString(data), None)


def read_large_infer(data: memoryview) -> InferCall:
    """Return a request whose data are apart. Raises as `WireMessage`, also for two inputs, or two fields of data."""
    request = WireMessage(data, 0, len(data), "ModelInferRequest")
    message = ModelInferRequest.FromString(request.beside(_INPUTS, _RAW))
    apart = InferData([request.content(field) for field in request.sized(_RAW)], [], {})
    if (field := request.only(_INPUTS)) is not None:
        tensor = request.nested(field, "InferInputTensor")
        target = message.inputs.add()
        target.MergeFromString(tensor.beside(_CONTENTS))
        if (contents := tensor.only(_CONTENTS)) is not None:
            target.contents.SetInParent()
            _read_contents(tensor.nested(contents, "InferTensorContents"), target.contents, apart)
    return InferCall(message, apart)


def _read_contents(wire: WireMessage, target: InferTensorContents, apart: InferData) -> None:
    """Read the elements of a tensor. Raises InvalidInputError if there are others beside those of its datatype.

    They would stay in memory, without being counted, as long as a view of the message.
    """
    if len(numbers := sorted({field.number for field in wire.fields})) > 1:
        raise InvalidInputError(
            f"the contents of a large input have the fields {numbers}, expected only that of its datatype: send its "
            "elements once",
            field="inputs[0].contents",
        )
    apart.elements.extend(wire.content(field) for field in wire.sized(_ELEMENTS))
    for field in wire.fields:
        if field.number == _ELEMENTS:
            continue
        if field.number in _FLOATS and len(wire.fields) == 1 and _fits(field):
            name, dtype = _FLOATS[field.number]
            apart.floats[name] = np.frombuffer(wire.content(field), dtype)
        elif field.is_sized:
            _merge_in_steps(wire, field, target)
        else:
            target.MergeFromString(bytes(wire.data[field.begin : field.end]))


def _fits(field: WireField) -> bool:
    return (field.end - field.start) % _FLOATS[field.number][1].itemsize == 0


def _merge_in_steps(wire: WireMessage, field: WireField, target: InferTensorContents) -> None:
    """Add packed numbers to a message. Raises DecodeError if they are cut off."""
    tag, at = varint(field.number << 3 | 2), field.start
    while at < field.end:
        end = min(at + _STEP_BYTES, field.end)  # a multiple of the size of a float
        longest = end if field.number in _FLOATS else min(end + _NUMBER_BYTES, field.end)
        while end < longest and wire.data[end - 1] >= 0x80:
            end += 1
        target.MergeFromString(b"".join((tag, varint(end - at), wire.data[at:end])))
        at = end


INFER_CODECS = {
    f"/inference.GRPCInferenceService/{method}": Codec(
        ModelInferRequest, never_fast, read_infer, written, read_large_infer
    )
    for method in ("ModelInfer", "ModelStreamInfer")
}
"""The codecs of the methods that carry data, by path."""

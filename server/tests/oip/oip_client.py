"""The calls of the inference service by their names, and requests for them."""

from __future__ import annotations

import struct
from typing import Any

import grpc
import numpy as np
from google.protobuf import message_factory
from google.rpc import status_pb2

from midrib.oip.v2 import inference_pb2 as oip
from midrib.wire import Array, status_to_error

ROWS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
GATE = "test/embedding/gate"
Request = oip.ModelInferRequest
Code = grpc.StatusCode


class Inference:
    """The calls of the service by their names, on one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            make: Any = channel.stream_stream if method.client_streaming else channel.unary_unary
            call = make(
                f"/inference.GRPCInferenceService/{method.name}",
                request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def tensor(datatype: str, shape: list[int], *, name: str = "input", **contents: Any) -> Request.InferInputTensor:
    typed = oip.InferTensorContents(**contents) if contents else None
    return Request.InferInputTensor(name=name, datatype=datatype, shape=shape, contents=typed)


def raw(array: Array, datatype: str, *, model: str = "gate", **fields: Any) -> oip.ModelInferRequest:
    return Request(
        model_name=model, inputs=[tensor(datatype, list(array.shape))], raw_input_contents=[array.tobytes()], **fields
    )


def texts(*elements: bytes, name: str = "texts", model: str = "words") -> oip.ModelInferRequest:
    packed = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    inputs = [tensor("BYTES", [len(elements)], name=name)]
    return Request(model_name=model, inputs=inputs, raw_input_contents=[packed])


def rows(response: oip.ModelInferResponse, dtype: Any = np.float32) -> list[list[float]]:
    (output,), (data,) = response.outputs, response.raw_output_contents
    array: Array = np.frombuffer(data, dtype).reshape(output.shape).astype(np.float32)
    return array.tolist()  # type: ignore[no-any-return] # numpy's list is untyped


def reason_of(error: Any) -> str:
    """The reason that the details carry, as any client may read it."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return status_to_error(status_pb2.Status.FromString(details)).reason


def option(**value: Any) -> oip.InferParameter:
    return oip.InferParameter(**value)

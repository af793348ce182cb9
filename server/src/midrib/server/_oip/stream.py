"""ModelStreamInfer: its requests and answers, in the order of the requests."""

from __future__ import annotations

from typing import NamedTuple

from midrib.oip.v2.inference_pb2 import (
    InferParameter,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from midrib.server._calls.embedder import Embedded, ItemInput, OpenCall, RequestEmbedder
from midrib.server._calls.requests import Caller
from midrib.server._large import joined
from midrib.server._oip.large_request import InferCall
from midrib.server._oip.request import infer_response, open_request, wants_final_mark
from midrib.wire import MidribError, varint

_RESPONSE_TAG = b"\x12"  # ModelStreamInferResponse.infer_response


class RequestId(NamedTuple):
    """The fields of a request that its answer repeats."""

    id: str
    model_name: str
    is_final: bool


class InferStreamProtocol:
    """Requests for any backbone. An error is part of a response: this protocol ends a stream only by its status."""

    in_order = True
    go_away = None

    def __init__(self, embedder: RequestEmbedder, caller: Caller) -> None:
        self._embedder = embedder
        self._caller = caller._replace(waits_for_room=True)
        self.leaving = embedder.catalogue.closing

    def id_of(self, infer: InferCall) -> RequestId:
        """Return the fields that the answer repeats."""
        request = infer.message
        return RequestId(request.id, request.model_name, wants_final_mark(request))

    async def read(self, infer: InferCall) -> tuple[OpenCall, ItemInput]:
        """Return the call that a request makes, and its input. Raises what `open_request` raises."""
        return await open_request(self._embedder, infer, self._caller)

    def answer(self, request_id: RequestId, embedded: Embedded) -> bytes:
        """Return the bytes of a response with an embedding."""
        parts = infer_response(embedded, request_id.id, is_final=request_id.is_final)
        return joined((_RESPONSE_TAG, varint(sum(map(len, parts))), *parts))

    def refusal(self, request_id: RequestId, error: MidribError) -> ModelStreamInferResponse:
        """Return a response with an error: a sentence, and the reason as a parameter."""
        response = ModelInferResponse(
            id=request_id.id,
            model_name=request_id.model_name,
            parameters={"reason": InferParameter(string_param=error.reason)},
        )
        return ModelStreamInferResponse(error_message=error.message, infer_response=response)

"""ModelStreamInfer: its requests and answers, in the order of the requests."""

from __future__ import annotations

from typing import NamedTuple

from midrib.oip.v2.inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from midrib.server._calls.embedder import Embedded, ItemInput, OpenCall, RequestEmbedder
from midrib.server._calls.requests import Caller
from midrib.server._oip.request import infer_response, open_request, wants_final_mark
from midrib.wire import MidribError


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

    def id_of(self, request: ModelInferRequest) -> RequestId:
        """Return the fields that the answer repeats."""
        return RequestId(request.id, request.model_name, wants_final_mark(request))

    async def read(self, request: ModelInferRequest) -> tuple[OpenCall, ItemInput]:
        """Return the call that a request makes, and its input. Raises the errors of `open_request`."""
        return await open_request(self._embedder, request, self._caller)

    def answer(self, request_id: RequestId, embedded: Embedded) -> ModelStreamInferResponse:
        """Return a response with an embedding."""
        response = infer_response(embedded, request_id.id, is_final=request_id.is_final)
        return ModelStreamInferResponse(infer_response=response)

    def refusal(self, request_id: RequestId, error: MidribError) -> ModelStreamInferResponse:
        """Return a response with an error: a sentence, and the reason as a parameter."""
        response = ModelInferResponse(
            id=request_id.id,
            model_name=request_id.model_name,
            parameters={"reason": InferParameter(string_param=error.reason)},
        )
        return ModelStreamInferResponse(error_message=error.message, infer_response=response)

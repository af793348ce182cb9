"""EmbeddingService: one batch, a stream of items, an input's gradient."""

from __future__ import annotations

from collections.abc import AsyncIterator

from midrib.server._calls.embedder import Embedder
from midrib.server._grpc.context import caller_of
from midrib.server._grpc.embed_stream import Request, serve_embed_stream
from midrib.server._grpc.errors import Context, abort, unary
from midrib.server._grpc.fast_codec import EmbedCall, write_embed_response
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor


class EmbeddingService(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Runs items on the catalogue's backbones."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @unary
    async def Embed(self, call: EmbedCall, context: Context) -> bytes:
        """Return the embedding of one batch; refused at once if there is no room."""
        request = call.request
        caller = caller_of(context, priority=request.priority)
        embedded = await self._embedder.embed(request, caller, tensor=call.tensor)
        return write_embed_response(embedded.features, request.options, embedded.by.revision, embedded.timing)

    @unary
    async def Backward(
        self, request: embedding_pb2.BackwardRequest, context: Context
    ) -> embedding_pb2.BackwardResponse:
        """Return the gradient of an input, in the input's dtype; the forward pass runs again."""
        caller = caller_of(context, priority=embedding_pb2.PRIORITY_TRAINING)
        gradient = await self._embedder.gradient(request, caller)
        return embedding_pb2.BackwardResponse(
            grad_input=encode_tensor(gradient.features), revision=gradient.by.revision, timing=gradient.timing
        )

    async def EmbedStream(self, request_iterator: AsyncIterator[Request], context: Context) -> None:
        """Read items and write their results as they are ready, until the client has sent all or the server drains."""
        try:
            first = await anext(request_iterator, None)
            if first is not None:
                await serve_embed_stream(self._embedder, context, first, request_iterator)
        except Exception as error:  # noqa: BLE001 - the outer boundary: everything becomes a status
            await abort(context, error)

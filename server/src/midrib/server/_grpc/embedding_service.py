"""EmbeddingService: one batch, a stream of items, an input's gradient."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from midrib.server._calls.embedder import Embedder
from midrib.server._calls.requests import open_backbone, timing
from midrib.server._grpc.context import caller_of
from midrib.server._grpc.embed_stream import StreamSession
from midrib.server._grpc.errors import Context, abort, unary
from midrib.server._grpc.fast_codec import EmbedCall, StreamItem, write_embed_response
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import InputKindError, encode_tensor


class EmbeddingService(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Runs items on the catalogue's backbones."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @unary
    async def Embed(self, call: EmbedCall, context: Context) -> bytes:
        """One batch in, its embedding out; refused at once where there is no room."""
        request = call.request
        caller = caller_of(context, priority=request.priority)
        embedded = await self._embedder.embed(request, caller, tensor=call.tensor)
        return write_embed_response(embedded.features, request.options, embedded.by.revision, embedded.timing)

    @unary
    async def Backward(
        self, request: embedding_pb2.BackwardRequest, context: Context
    ) -> embedding_pb2.BackwardResponse:
        """The input's gradient, in the input's type; the forward pass runs again."""
        arrived = time.monotonic()
        loaded = open_backbone(self._embedder.catalogue, request)
        rows = loaded.intake.tensor(request.input, field="input")
        if rows.dtype.kind in "iu":
            raise InputKindError(f"backbone {loaded.served.description.name!r} takes integers: they have no gradient")
        gradient = loaded.intake.gradient(request.grad_embedding, len(rows))
        caller = caller_of(context, priority=embedding_pb2.PRIORITY_TRAINING)
        outcome = await self._embedder.run(loaded, (rows, gradient), caller)
        return embedding_pb2.BackwardResponse(
            grad_input=encode_tensor(outcome.rows.astype(rows.dtype, copy=False)),
            revision=loaded.served.description.revision,
            timing=timing(outcome, arrived),
        )

    async def EmbedStream(
        self, request_iterator: AsyncIterator[StreamItem | embedding_pb2.EmbedStreamRequest], context: Context
    ) -> None:
        """Items in, results out as they are ready, until the client has sent all or the server drains."""
        try:
            first = await anext(request_iterator, None)
            if first is None:
                return
            await StreamSession(self._embedder, context).run(first, request_iterator)
        except Exception as error:  # noqa: BLE001 - the outer boundary: everything becomes a status
            await abort(context, error)

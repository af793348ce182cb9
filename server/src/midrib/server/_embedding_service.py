"""EmbeddingService: one batch, a stream of items, an input's gradient."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from midrib.server._abort import Context, abort, unary
from midrib.server._catalogue import Catalogue
from midrib.server._in_flight import ByteBudget
from midrib.server._intake import check_options, encode_rows
from midrib.server._item import Outcome
from midrib.server._loading import Loaded
from midrib.server._requests import empty_outcome, new_item, open_backbone, timing
from midrib.server._stream import StreamSession
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, InputKindError, encode_tensor


class EmbeddingService(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Runs items on the catalogue's backbones."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._in_flight = ByteBudget(catalogue.settings.max_in_flight_bytes)

    @unary
    async def Embed(self, request: embedding_pb2.EmbedRequest, context: Context) -> embedding_pb2.EmbedResponse:
        """One batch in, its embedding out; refused at once where there is no room."""
        arrived = time.monotonic()
        loaded = open_backbone(self._catalogue, request)
        check_options(request.options, loaded.served.description.num_features)
        rows = await loaded.intake.read(request.input)
        outcome = await self._run(loaded, (rows,), context)
        return embedding_pb2.EmbedResponse(
            embedding=encode_rows(outcome.rows, request.options),
            revision=loaded.served.description.revision,
            timing=timing(outcome, arrived),
        )

    @unary
    async def Backward(
        self, request: embedding_pb2.BackwardRequest, context: Context
    ) -> embedding_pb2.BackwardResponse:
        """The input's gradient, in the input's type; the forward pass runs again."""
        arrived = time.monotonic()
        loaded = open_backbone(self._catalogue, request)
        rows = loaded.intake.tensor(request.input, field="input")
        if rows.dtype.kind in "iu":
            raise InputKindError(f"backbone {loaded.served.description.name!r} takes integers: they have no gradient")
        gradient = loaded.intake.gradient(request.grad_embedding, len(rows))
        outcome = await self._run(loaded, (rows, gradient), context)
        return embedding_pb2.BackwardResponse(
            grad_input=encode_tensor(outcome.rows.astype(rows.dtype, copy=False)),
            revision=loaded.served.description.revision,
            timing=timing(outcome, arrived),
        )

    async def EmbedStream(
        self, request_iterator: AsyncIterator[embedding_pb2.EmbedStreamRequest], context: Context
    ) -> None:
        """Items in, results out as they are ready, until the client has sent all or the server drains."""
        try:
            first = await anext(request_iterator, None)
            if first is None:
                return
            await StreamSession(self._catalogue, self._in_flight, context).run(first, request_iterator)
        except Exception as error:  # noqa: BLE001 - the outer boundary: everything becomes a status
            await abort(context, error)

    async def _run(self, loaded: Loaded, arrays: tuple[Array, ...], context: Context) -> Outcome:
        if not len(arrays[0]):
            return empty_outcome(loaded, arrays)
        size = sum(array.nbytes for array in arrays)
        self._in_flight.take(size)
        try:
            item = new_item(loaded, arrays, context, flow=context.peer())
            loaded.served.batcher.submit(item)
            return await item.done
        finally:
            self._in_flight.release(size)

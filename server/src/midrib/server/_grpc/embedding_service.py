"""EmbeddingService: the embedding of one batch, a stream of items, the gradient of an input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TypeAlias

from midrib.server._calls.embedder import Embedded, ItemInput, OpenCall, RequestEmbedder
from midrib.server._catalogue.descriptions import limits_message
from midrib.server._grpc.codecs.fast import write_embed_response, write_result
from midrib.server._grpc.codecs.messages import BackwardCall, EmbedCall, StreamItem
from midrib.server._grpc.context import Context
from midrib.server._grpc.guard import caller_of
from midrib.server._grpc.item_stream import ItemStream
from midrib.server._grpc.unread import release_once_written
from midrib.server._large import beside_loop
from midrib.server._shared_memory.streams import StreamMemories, StreamMemory
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.v1.embedding_pb2 import EmbedStreamRequest, EmbedStreamResponse, Result
from midrib.v1.tensor_pb2 import DATA_TYPE_INT8
from midrib.wire import (
    InvalidInputError,
    MidribError,
    StreamProtocolError,
    code_from_dtype,
    dtype_from_code,
    error_to_status,
    is_floating,
)

Request: TypeAlias = EmbedStreamRequest | StreamItem


class EmbeddingService(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Runs items on the catalogue's backbones."""

    def __init__(self, embedder: RequestEmbedder) -> None:
        self._embedder = embedder
        self._memories = StreamMemories(embedder.catalogue.settings, embedder.catalogue.accounting)

    def close(self) -> None:
        """Share no more memory; the streams that have a segment keep it."""
        self._memories.close()

    async def Embed(self, call: EmbedCall, context: Context) -> bytes:
        """Return the embedding of one batch; refused at once if the quota is full."""
        request = call.request
        caller = caller_of(context, priority=request.priority)
        embedded, reservation = await self._embedder.embed_held(request, caller, source=call.source)
        release_once_written(context, reservation, embedded.features)
        return await _written(embedded, request.options)

    async def Backward(self, call: BackwardCall, context: Context) -> bytes:
        """Return the gradient of an input, in the input's dtype; the forward pass runs again."""
        caller = caller_of(context, priority=embedding_pb2.PRIORITY_TRAINING)
        gradient, reservation = await self._embedder.gradient_held(call.request, caller, tensors=call.tensors)
        release_once_written(context, reservation, gradient.features)
        return await _written(gradient, embedding_pb2.Options())

    async def EmbedStream(self, request_iterator: AsyncIterator[Request], context: Context) -> None:
        """Read items and write their results as they are ready, until the client has sent all or the server drains."""
        first = await anext(request_iterator, None)
        if first is not None:
            await serve_embed_stream(self._embedder, context, first, request_iterator, self._memories)


async def _written(embedded: Embedded, options: embedding_pb2.Options) -> bytes:
    """Return the bytes of a response; a large one is written in a thread."""
    rows = embedded.features
    write = partial(write_embed_response, rows, options, embedded.by.revision, embedded.timing)
    return await beside_loop(rows.nbytes, write)


class EmbedStreamProtocol:
    """Items with an id for one backbone; their results are written as soon as they are ready."""

    in_order = False

    def __init__(self, call: OpenCall, memory: StreamMemory) -> None:
        self._call = call
        self._memory = memory
        self.leaving = call.loaded.served.draining

    def go_away(self, reason: str) -> EmbedStreamResponse:
        """Return the message that asks the client to open another stream."""
        return EmbedStreamResponse(go_away=embedding_pb2.GoAway(reason=reason))

    def id_of(self, request: Request) -> int:
        """Return the id of an item. Raises StreamProtocolError for any other message."""
        if isinstance(request, StreamItem):
            return request.id
        if request.WhichOneof("message") != "item":
            raise StreamProtocolError("a stream is opened once: send only items after `open`", reason="OPENED_TWICE")
        return request.item.id

    async def read(self, request: Request) -> tuple[OpenCall, ItemInput]:
        """Return the stream's call, and the input of an item. Raises InvalidInputError for a wrong place in memory."""
        shared = not isinstance(request, StreamItem) and request.item.HasField("shared")
        self._memory.count_item(shared=shared)
        if isinstance(request, StreamItem):
            return self._call, request.source
        item = request.item
        if not shared:
            return self._call, item.input
        if item.HasField("input"):
            raise InvalidInputError(
                f"item {item.id} has both `input` and `shared`, expected one of them", field="shared"
            )
        return self._call, self._memory.input(item.id, item.shared)

    def answer(self, request_id: int, embedded: Embedded) -> bytes:
        """Return the bytes of a response with a result."""
        options, timing = self._call.options, embedded.timing
        shared = None
        if options.dtype == DATA_TYPE_INT8:
            self._memory.forget(request_id)
        else:
            shared = self._memory.write(request_id, embedded.features)
        if shared is None:
            return write_result(request_id, embedded.features, options, timing)
        return EmbedStreamResponse(result=Result(id=request_id, shared=shared, timing=timing)).SerializeToString()

    def refusal(self, request_id: int, error: MidribError) -> EmbedStreamResponse:
        """Return a response with the status of a failed item."""
        self._memory.forget(request_id)
        return EmbedStreamResponse(result=Result(id=request_id, error=error_to_status(error)))


async def serve_embed_stream(
    embedder: RequestEmbedder,
    context: Context,
    first: Request,
    requests: AsyncIterator[Request],
    memories: StreamMemories | None = None,
) -> None:
    """Serve an EmbedStream call to its end.

    memories: the shared memory of the server's streams; by default those of this call only.
    Raises StreamProtocolError if the first message does not open the stream, and the errors of `RequestEmbedder.open`
    and `ItemStream.run`.
    """
    if isinstance(first, StreamItem) or first.WhichOneof("message") != "open":
        raise StreamProtocolError("the first message of a stream must be `open`, then come items")
    caller = caller_of(context, flow=object(), priority=first.open.priority)
    call = embedder.open(first.open, caller._replace(waits_for_room=True))
    settings = embedder.catalogue.settings
    memories = memories or StreamMemories(settings, embedder.catalogue.accounting)
    memory = memories.of_stream(caller.tenant, requested=first.open.shared_memory, copies=_must_copy(call))
    try:
        stream = ItemStream(settings, context, EmbedStreamProtocol(call, memory))
        stream.say(EmbedStreamResponse(opened=_opened(embedder, call, memory)))
        await stream.run(requests)
    finally:
        memory.close()


def _must_copy(call: OpenCall) -> bool:
    """Return whether inputs must not change once they are checked; modules may look up integers in a table."""
    takes_floats = is_floating(dtype_from_code(code_from_dtype(call.by.input.tensor.dtype)))
    return call.loaded.intake.checks_values or not takes_floats


def _opened(embedder: RequestEmbedder, call: OpenCall, memory: StreamMemory) -> embedding_pb2.Opened:
    return embedding_pb2.Opened(
        revision=call.by.revision,
        num_features=call.by.num_features,
        limits=limits_message(embedder.catalogue.settings, call.loaded.intake),
        shared_memory=memory.offered(),
    )

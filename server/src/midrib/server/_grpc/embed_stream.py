"""EmbedStream: its requests and answers, and the backbone that its first message opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

from midrib.server._calls.embedder import Embedded, Embedder, ItemInput, OpenCall
from midrib.server._catalogue.descriptions import limits_message
from midrib.server._grpc.context import caller_of
from midrib.server._grpc.errors import Context
from midrib.server._grpc.fast_codec import StreamItem, write_result
from midrib.server._grpc.item_stream import ItemStream
from midrib.v1 import embedding_pb2
from midrib.v1.embedding_pb2 import EmbedStreamRequest, EmbedStreamResponse, Result
from midrib.wire import MidribError, StreamProtocolError, error_to_status

Request: TypeAlias = EmbedStreamRequest | StreamItem
_DRAINING = embedding_pb2.GoAway(reason="the backbone is being drained: open another stream")


class EmbedStreamProtocol:
    """Items with an id for one backbone; their results are written as soon as they are ready."""

    in_order = False
    go_away = EmbedStreamResponse(go_away=_DRAINING)

    def __init__(self, call: OpenCall) -> None:
        self._call = call
        self.leaving = call.loaded.served.draining

    def id_of(self, request: Request) -> int:
        """Return the id of an item. Raises StreamProtocolError for any other message."""
        if isinstance(request, StreamItem):
            return request.id
        if request.WhichOneof("message") != "item":
            raise StreamProtocolError("a stream is opened once: send only items after `open`", reason="OPENED_TWICE")
        return request.item.id

    async def read(self, request: Request) -> tuple[OpenCall, ItemInput]:
        """Return the stream's call, and the input of an item."""
        return self._call, request.tensor if isinstance(request, StreamItem) else request.item.input

    def answer(self, request_id: int, embedded: Embedded) -> bytes:
        """Return the bytes of a response with a result."""
        return write_result(request_id, embedded.features, self._call.options, embedded.timing)

    def refusal(self, request_id: int, error: MidribError) -> EmbedStreamResponse:
        """Return a response with the status of a failed item."""
        return EmbedStreamResponse(result=Result(id=request_id, error=error_to_status(error)))


async def serve_embed_stream(
    embedder: Embedder, context: Context, first: Request, requests: AsyncIterator[Request]
) -> None:
    """Serve an EmbedStream call to its end.

    Raises StreamProtocolError if the first message does not open the stream, and what `Embedder.open` and
    `ItemStream.run` raise.
    """
    if isinstance(first, StreamItem) or first.WhichOneof("message") != "open":
        raise StreamProtocolError("the first message of a stream must be `open`, then come items")
    caller = caller_of(context, flow=object(), priority=first.open.priority)
    call = embedder.open(first.open, caller._replace(waits_for_room=True))
    stream = ItemStream(embedder.catalogue.settings, context, EmbedStreamProtocol(call))
    stream.say(EmbedStreamResponse(opened=_opened(embedder, call)))
    await stream.run(requests)


def _opened(embedder: Embedder, call: OpenCall) -> embedding_pb2.Opened:
    return embedding_pb2.Opened(
        revision=call.by.revision,
        num_features=call.by.num_features,
        limits=limits_message(embedder.catalogue.settings, call.loaded.intake),
    )

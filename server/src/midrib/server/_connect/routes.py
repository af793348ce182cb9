"""The calls of the Connect protocol: embed one batch, list the backbones, describe one.

Source: https://connectrpc.com/docs/protocol
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web
from google.protobuf.message import Message

from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._connect.codecs import PROTO, MessageT, media_type, read, write
from midrib.server._grpc.backbone_service import BackboneService
from midrib.server._grpc.codecs.fast import write_embed_response
from midrib.server._grpc.guard import priority_of
from midrib.server._grpc.listen import request_limits
from midrib.server._http.body import MAX_BODY_BYTES, off_loop, receive, receive_small
from midrib.server._http.call import CURRENT_CALL
from midrib.server._large import beside_loop
from midrib.v1 import backbone_pb2, embedding_pb2

# A float64 takes 8 bytes, a third more in base64.
_NUMBER_BYTES = 12
_MAX_SMALL_BODY_BYTES = 2**16


def connect_routes(embedder: RequestEmbedder) -> list[web.RouteDef]:
    """Return the path of each call, with its handler."""
    calls = ConnectCalls(embedder)
    return [
        web.post("/midrib.v1.EmbeddingService/Embed", calls.embed),
        web.post("/midrib.v1.BackboneService/ListBackbones", calls.list_backbones),
        web.post("/midrib.v1.BackboneService/GetBackbone", calls.get_backbone),
    ]


class ConnectCalls:
    """Answers the unary calls of the gRPC services, except those that load, unload or train."""

    def __init__(self, embedder: RequestEmbedder) -> None:
        self._embedder = embedder
        self._catalogue = embedder.catalogue
        self._backbones = BackboneService(embedder.catalogue, admin=False)
        self._limits = request_limits(embedder.catalogue.settings).elements
        self._max_body_bytes = min(MAX_BODY_BYTES, embedder.catalogue.settings.max_message_bytes)

    async def embed(self, request: web.Request) -> web.Response:
        """Answer an EmbedRequest with an EmbedResponse. Raises the errors of `RequestEmbedder.embed_reserved`."""
        media, call = media_type(request), CURRENT_CALL.get()
        call.begin()
        body = await receive(request, call, limit=self._max_body_bytes)
        message = await off_loop(len(body), lambda: self._read(embedding_pb2.EmbedRequest, body, media))
        loaded = self._catalogue.entry(message.backbone).ready()
        call.hold_items([message], loaded, row_bytes=_NUMBER_BYTES * loaded.served.description.num_features)
        caller = call.caller._replace(priority=priority_of(message.priority))
        embedded = await self._embedder.embed_reserved(message, caller)
        response = partial(
            write_embed_response, embedded.features, message.options, embedded.by.revision, embedded.timing
        )
        data = await beside_loop(embedded.features.nbytes, response)
        if media == PROTO:
            return web.Response(body=data, content_type=media)
        answer = await off_loop(len(data), lambda: write(embedding_pb2.EmbedResponse.FromString(data), media=media))
        return web.Response(body=answer, content_type=media)

    async def list_backbones(self, request: web.Request) -> web.Response:
        """Answer a ListBackbonesRequest with the served backbones."""
        return await self._answer(request, backbone_pb2.ListBackbonesRequest, self._backbones.ListBackbones)

    async def get_backbone(self, request: web.Request) -> web.Response:
        """Answer a GetBackboneRequest with one backbone. Raises BackboneNotFoundError, with the nearest names."""
        return await self._answer(request, backbone_pb2.GetBackboneRequest, self._backbones.GetBackbone)

    async def _answer(
        self, request: web.Request, kind: type[MessageT], answer: Callable[[MessageT, Any], Awaitable[Message]]
    ) -> web.Response:
        media = media_type(request)
        CURRENT_CALL.get().begin()
        body = await receive_small(request, limit=_MAX_SMALL_BODY_BYTES)
        message = await off_loop(len(body), lambda: self._read(kind, body, media))
        return web.Response(body=write(await answer(message, None), media=media), content_type=media)

    def _read(self, kind: type[MessageT], body: bytearray, media: str) -> MessageT:
        return read(kind, body, media=media, limits=self._limits)

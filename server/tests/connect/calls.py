"""One call of the Connect protocol, and the server's answer."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from server.tests.reply import Reply, reply_of

MessageT = TypeVar("MessageT", bound=Message)

PROTO, JSON = "application/proto", "application/json"
EMBED = "/midrib.v1.EmbeddingService/Embed"
LIST = "/midrib.v1.BackboneService/ListBackbones"
GET = "/midrib.v1.BackboneService/GetBackbone"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def written(message: Message, media: str) -> bytes:
    """Return a message in the form of a call."""
    return message.SerializeToString() if media == PROTO else json_format.MessageToJson(message).encode()


def read(message: MessageT, body: bytes, media: str) -> MessageT:
    """Return an answer as the message that it is."""
    return json_format.Parse(body, message) if media == JSON else type(message).FromString(body)


def call(
    address: str | None, path: str, body: bytes, *, media: str = PROTO, headers: Mapping[str, str] = NO_HEADERS
) -> Reply:
    """Return the answer to a POST on a new connection."""
    connection = http.client.HTTPConnection(str(address), timeout=60)
    connection.request("POST", path, body, {"Content-Type": media, "Connect-Protocol-Version": "1", **headers})
    return reply_of(connection)

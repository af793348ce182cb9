"""The two forms of a message in the Connect protocol: protobuf's bytes, and JSON."""

from __future__ import annotations

import json
from typing import TypeVar, cast

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from midrib.server._admission.element_count import ElementLimits, check_elements
from midrib.server._http.body import MAX_VALUES, count_values, loads
from midrib.wire import InvalidInputError, LimitExceededError

MessageT = TypeVar("MessageT", bound=Message)

PROTO, JSON = "application/proto", "application/json"
_MAX_QUOTED = 100
_MAX_SHOWN = 300


def media_type(request: web.Request) -> str:
    """Return the form of a call: PROTO or JSON. Raises HTTPUnsupportedMediaType for any other."""
    if request.content_type not in (PROTO, JSON):
        raise web.HTTPUnsupportedMediaType(
            text=f"Content-Type is {request.content_type[:_MAX_QUOTED]!r}, expected {PROTO!r} or {JSON!r}: use a "
            "client of the Connect protocol, not of gRPC-Web"
        )
    return request.content_type


def read(kind: type[MessageT], body: bytes | bytearray, *, media: str, limits: ElementLimits) -> MessageT:
    """Return the message of a body. Elements are counted before the message is built.

    Raises InvalidInputError for a body that is not such a message, LimitExceededError for too many elements.
    """
    if media == JSON:
        return _read_json(kind, body)
    check_elements(bytes(body), cast(Descriptor, kind.DESCRIPTOR), limits)
    try:
        return kind.FromString(bytes(body))
    except DecodeError as error:
        raise InvalidInputError(
            f"could not parse the request as {kind.DESCRIPTOR.name}: generate the client from the server's .proto files"
        ) from error


def write(message: Message, *, media: str) -> bytes:
    """Return a message in the form of its call."""
    if media == PROTO:
        return message.SerializeToString()
    return json.dumps(json_format.MessageToDict(message), allow_nan=False).encode()


def _read_json(kind: type[MessageT], body: bytes | bytearray) -> MessageT:
    """Return the message of a JSON body. Raises InvalidInputError, or LimitExceededError for too many elements."""
    _, commas = count_values(body)
    if commas > MAX_VALUES:  # protobuf reads each in Python; tensors are one base64 text
        raise LimitExceededError(f"the body has {commas} elements, at most {MAX_VALUES} are accepted: send {PROTO}")
    try:
        return json_format.ParseDict(loads(body), kind())
    except (json_format.ParseError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"could not read the body as the JSON of {kind.DESCRIPTOR.name}: {str(error)[:_MAX_SHOWN]}"
        ) from error

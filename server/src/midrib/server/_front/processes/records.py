"""The records between the engine and a front process: their kinds and the payloads that are not plain bytes."""

from __future__ import annotations

import base64
import json
import math
import struct
from enum import IntEnum
from functools import lru_cache

import grpc

from midrib.server._front.headers import Metadata, RequestHead
from midrib.server._front.messages import MessageError

# The headers of most calls of a connection are equal but for the timeout. Up to this size they are decoded once.
_CACHED_BYTES = 2048
_CACHE_SIZE = 256
_TIMEOUT = struct.Struct("<d")  # in seconds
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class FromFront(IntEnum):
    """The kinds of records that a front process sends.

    READY: it accepts connections.  COUNTS: the number of its connections.  LOG: a record of its log.
    OPEN: a call begins: its peer and headers.  MESSAGE: of the client.  REFUSED: the next message breaks a limit.
    HALF_CLOSED: the client has sent all.  LOST: the client has cancelled the call or left.
    SENT: the number of messages of the call that flow control has let go.  FINISHED: the call's trailers are sent.
    """

    READY = 0
    COUNTS = 1
    OPEN = 2
    MESSAGE = 3
    REFUSED = 4
    HALF_CLOSED = 5
    LOST = 6
    SENT = 7
    FINISHED = 8
    LOG = 9


class FromEngine(IntEnum):
    """The kinds of records that the engine sends.

    DRAIN: accept no connections, and end when the last one has ended.  CLOSE: end all connections.
    ABORT: end the connection of a call without its last bytes.
    READ: receive the next message, of any size; the payload is the number of messages that have arrived.
    READ_AHEAD: let the client send further messages of the call.  MESSAGE: of the server.
    FINISH: end the call with trailers after all messages; its handler has ended.  END: end it with trailers now.
    HANDLER_ENDED: the handler of a call has ended without FINISH.
    """

    DRAIN = 0
    CLOSE = 1
    ABORT = 2
    READ = 3
    READ_AHEAD = 4
    MESSAGE = 5
    FINISH = 6
    END = 7
    HANDLER_ENDED = 8


def encode_count(count: int) -> bytes:
    """Return the payload of a number below 2**64."""
    return count.to_bytes(8, "little")


def decode_count(payload: bytes) -> int:
    """Return the number of a payload."""
    return int.from_bytes(payload, "little")


def encode_open(peer: str, head: RequestHead) -> bytes:
    """Return the payload of OPEN."""
    timeout_s = math.inf if head.timeout_s is None else head.timeout_s
    return _TIMEOUT.pack(timeout_s) + _encode_fields(peer, head.path, head.metadata, head.refusal)


def decode_open(payload: bytes) -> tuple[str, RequestHead]:
    """Return the peer and the headers of OPEN. Raises ValueError for another payload."""
    (timeout_s,) = _TIMEOUT.unpack_from(payload)
    fields = payload[_TIMEOUT.size :]
    peer, head = (_decode_fields_once if len(fields) <= _CACHED_BYTES else _decode_fields)(fields)
    return peer, head if timeout_s == math.inf else head._replace(timeout_s=timeout_s)


@lru_cache(_CACHE_SIZE)
def _encode_fields(peer: str, path: str, metadata: Metadata, refusal: tuple[grpc.StatusCode, str] | None) -> bytes:
    fields = [
        [name, value] if isinstance(value, str) else [name, None, base64.b64encode(value).decode()]
        for name, value in metadata
    ]
    return json.dumps([peer, path, fields, refusal and [refusal[0].value[0], refusal[1]]]).encode()


def _decode_fields(payload: bytes) -> tuple[str, RequestHead]:
    peer, path, fields, refusal = json.loads(payload)
    metadata = tuple((field[0], field[1] if len(field) == 2 else base64.b64decode(field[2])) for field in fields)
    reason = None if refusal is None else (_CODES[refusal[0]], str(refusal[1]))
    return peer, RequestHead(path, metadata, refusal=reason)


_decode_fields_once = lru_cache(_CACHE_SIZE)(_decode_fields)


def encode_refusal(error: MessageError) -> bytes:
    """Return the payload of REFUSED."""
    return json.dumps([error.code.value[0], str(error)]).encode()


def decode_refusal(payload: bytes) -> MessageError:
    """Return the error of REFUSED. Raises ValueError for another payload."""
    code, message = json.loads(payload)
    return MessageError(_CODES[code], message)

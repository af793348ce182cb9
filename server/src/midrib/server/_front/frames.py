"""HTTP/2 frames: their numbers, and the bytes of those that a server sends. Source: RFC 9113."""

from __future__ import annotations

import struct
from enum import IntEnum

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
DEFAULT_WINDOW = 65_535
DEFAULT_MAX_FRAME = 16_384
LARGEST_WINDOW = LARGEST_STREAM_ID = 2**31 - 1

_HEAD = struct.Struct(">HBBBI")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """The settings that either side announces (RFC 9113, 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Http2Error(Exception):
    """The client broke a rule of HTTP/2 or a limit: its connection ends.

    code: sent to the client in GOAWAY, with the message of the exception.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamError(Exception):
    """The client broke a rule within one stream: that stream ends, the connection stays.

    code: sent to the client in RST_STREAM.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame_head(size: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine bytes before a payload of `size` bytes."""
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return frame_head(len(payload), kind, flags, stream_id) + payload


def settings_frame(values: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a frame that lets the client send `increment` more bytes; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def reset(stream_id: int, code: ErrorCode) -> bytes:
    """Return a frame that ends a stream at once."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def go_away(last_stream_id: int, code: ErrorCode, reason: bytes) -> bytes:
    """Return a frame that announces the end of the connection."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code) + reason)


def header_frames(stream_id: int, block: bytes, *, ends_stream: bool) -> bytes:
    """Return a header block as HEADERS, and CONTINUATION if it does not fit into the smallest maximum of a frame."""
    flags = END_STREAM if ends_stream else 0
    if len(block) <= DEFAULT_MAX_FRAME:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + DEFAULT_MAX_FRAME] for at in range(0, len(block), DEFAULT_MAX_FRAME)]
    middle = [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    last = frame(CONTINUATION, END_HEADERS, stream_id, parts[-1])
    return b"".join((frame(HEADERS, flags, stream_id, parts[0]), *middle, last))


def data_frames(stream_id: int, payload: memoryview, max_frame: int) -> list[bytes | memoryview]:
    """Return DATA frames as parts that are sent one after another: heads, and views of the payload."""
    parts: list[bytes | memoryview] = []
    for at in range(0, len(payload), max_frame):
        part = payload[at : at + max_frame]
        parts += (frame_head(len(part), DATA, 0, stream_id), part)
    return parts


def without_padding(flags: int, payload: bytes) -> bytes:
    """Return the payload of DATA or HEADERS without its padding. Raises Http2Error if that is too long."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"more padding than the frame of {len(payload)} bytes")
    return payload[1 : len(payload) - payload[0]]

"""gRPC's messages within the DATA frames of one stream: assembled, measured and unpacked."""

from __future__ import annotations

import asyncio
import struct
import zlib

import grpc

PREFIX_BYTES = 5
_PREFIX = struct.Struct(">BI")
# zlib's window for gzip, and for the zlib format, which HTTP calls deflate.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
# Larger packed messages are unpacked in a thread: they may become as large as a message can be.
_SMALL_PACKED_BYTES = 256


class MessageError(Exception):
    """The client's messages break gRPC's rules or a limit: the call ends with a status.

    code: of the status; the message of the exception is its text.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Assembler:
    """The messages of one stream, from the bytes of its DATA frames. Unread bytes are kept as they came, in one buffer.

    encoding: the compression of messages that are marked as compressed.
    max_bytes: of a message, packed and unpacked.
    """

    __slots__ = ("_buffer", "_encoding", "_max_bytes", "_ready")

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._ready: bytes | None = None  # a message that came complete in one frame, and is not compressed

    @property
    def missing(self) -> int:
        """The bytes that the next message is known to lack: at least those of its prefix, 0 if it can be taken."""
        if self._ready is not None:
            return 0
        if len(self._buffer) < PREFIX_BYTES:
            return PREFIX_BYTES - len(self._buffer)
        size = int.from_bytes(self._buffer[1:PREFIX_BYTES], "big")
        return 0 if size > self._max_bytes else max(0, PREFIX_BYTES + size - len(self._buffer))

    def feed(self, payload: bytes) -> None:
        """Add the bytes of a frame."""
        if not self._buffer and self._ready is None and len(payload) >= PREFIX_BYTES and not payload[0]:
            end = PREFIX_BYTES + int.from_bytes(payload[1:PREFIX_BYTES], "big")
            if len(payload) == end <= PREFIX_BYTES + self._max_bytes:
                self._ready = payload[PREFIX_BYTES:]
                return
        self._buffer += payload

    def clear(self) -> None:
        """Drop all bytes."""
        self._buffer = bytearray()
        self._ready = None

    @property
    def is_packed(self) -> bool:
        """Whether the next message, of which nothing is missing, is compressed."""
        return self._ready is None and bool(self._buffer[0])

    async def take(self) -> bytes:
        """Return the next message, of which nothing is missing. Raises MessageError if it is refused, or cleared."""
        if self.missing:
            raise MessageError(grpc.StatusCode.CANCELLED, "the stream has ended")
        is_packed = self.is_packed
        message = self.take_as_sent()
        if not is_packed:
            return message
        if len(message) <= _SMALL_PACKED_BYTES:
            return self._unpacked(message)
        return await asyncio.to_thread(self._unpacked, message)

    def take_as_sent(self) -> bytes:
        """Return the next message, of which nothing is missing, without unpacking it.

        Raises MessageError if it is too long.
        """
        if self._ready is not None:
            message, self._ready = self._ready, None
            return message
        size = int.from_bytes(self._buffer[1:PREFIX_BYTES], "big")
        if size > self._max_bytes:
            raise self._too_long(f"{size} bytes")
        end = PREFIX_BYTES + size
        message = bytes(memoryview(self._buffer)[PREFIX_BYTES:end])
        del self._buffer[:end]
        return message

    def _unpacked(self, packed: bytes) -> bytes:
        """Return the decompressed message. Raises MessageError if it is damaged or too long."""
        if self._encoding not in _WINDOW_BITS:
            is_identity = self._encoding == "identity"
            raise MessageError(
                grpc.StatusCode.INTERNAL if is_identity else grpc.StatusCode.UNIMPLEMENTED,
                f"a message is compressed as {self._encoding[:40]!r}, expected one of: identity, deflate, gzip",
            )
        unpack = zlib.decompressobj(_WINDOW_BITS[self._encoding])
        try:
            message = unpack.decompress(packed, self._max_bytes + 1)
        except zlib.error as error:
            raise MessageError(grpc.StatusCode.INTERNAL, f"a message is not {self._encoding}") from error
        if len(message) > self._max_bytes:
            raise self._too_long(f"at least {len(message)} bytes")
        if not unpack.eof:
            raise MessageError(grpc.StatusCode.INTERNAL, f"a message of {self._encoding} is cut off")
        return message

    def _too_long(self, size: str) -> MessageError:
        message = f"a message has {size}, at most {self._max_bytes} are accepted"
        return MessageError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


def prefixed(message: bytes) -> bytes:
    """Return the five bytes before a message that is not compressed."""
    return _PREFIX.pack(0, len(message))

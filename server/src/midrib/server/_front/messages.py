"""gRPC's messages within the DATA frames of one stream: assembled, measured and unpacked."""

from __future__ import annotations

import asyncio
import mmap
import struct
import zlib

import grpc

from midrib.server._front.frames import DEFAULT_WINDOW
from midrib.server._large import LARGE_BYTES, Buffer

PREFIX_BYTES = 5
_PREFIX = struct.Struct(">BI")
# zlib's window for gzip, and for the zlib format, which HTTP calls deflate.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_STEP_BYTES = 2**16
# Larger packed messages are unpacked in a thread: they may become as large as a message can be.
_SMALL_PACKED_BYTES = 256


class MessageError(Exception):
    """The client's messages break gRPC's rules or a limit: the call ends with a status.

    code: the code of the status, whose text is the exception's message.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class LargeBuffer:
    """The memory of a large message of `size` bytes. Pages that are not filled take no memory.

    The first byte may fill a page of 2 MiB.
    """

    __slots__ = ("_filled", "_view")

    def __init__(self, size: int) -> None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):  # page faults would take longer than copying, and freeing too
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(memory)
        self._filled = 0

    @property
    def missing(self) -> int:
        """The bytes that have not arrived."""
        return len(self._view) - self._filled

    def room(self, max_bytes: int) -> memoryview:
        """Return memory for the next bytes, at most `max_bytes`; `grow` counts those that are written there."""
        return self._view[self._filled : self._filled + max_bytes]

    def grow(self, size: int) -> None:
        """Count bytes that were written to `room`."""
        self._filled += size

    def add(self, data: Buffer) -> int:
        """Copy the bytes that are missing from the start of `data`; return their number."""
        size = min(len(data), self.missing)
        self._view[self._filled : self._filled + size] = data[:size]
        self._filled += size
        return size

    def message(self) -> memoryview:
        """Return the message once nothing is missing; it cannot be changed."""
        return self._view.toreadonly()


class Assembler:
    """The messages of one stream, from the bytes of its DATA frames.

    A large message is assembled in memory of its size once more of it has arrived than an unread stream can send.
    Other unread bytes are kept in one buffer.

    encoding: the compression of messages that are marked as compressed.
    max_bytes: the largest message, both compressed and decompressed.
    """

    __slots__ = ("_buffer", "_encoding", "_is_large_packed", "_large", "_max_bytes", "_ready")

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._ready: bytes | None = None  # a message that came complete in one frame, and is not compressed
        self._large: LargeBuffer | None = None  # the next message; the buffer then holds the bytes behind it
        self._is_large_packed = False

    @property
    def missing(self) -> int:
        """The bytes that the next message is known to lack: at least those of its prefix, 0 if it can be taken."""
        if self._ready is not None:
            return 0
        if self._large is not None:
            return self._large.missing
        if len(self._buffer) < PREFIX_BYTES:
            return PREFIX_BYTES - len(self._buffer)
        size = self._announced()
        return 0 if size > self._max_bytes else max(0, PREFIX_BYTES + size - len(self._buffer))

    def feed(self, payload: bytes) -> None:
        """Add the bytes of a frame."""
        if self._large is not None:
            self._buffer += payload[self._large.add(payload) :] if self._large.missing else payload
            return
        if not self._buffer and self._ready is None and len(payload) >= PREFIX_BYTES and not payload[0]:
            end = PREFIX_BYTES + int.from_bytes(payload[1:PREFIX_BYTES], "big")
            if len(payload) == end <= PREFIX_BYTES + self._max_bytes:
                self._ready = payload[PREFIX_BYTES:]
                return
        self._buffer += payload
        self._begin_large()

    def _announced(self) -> int:
        """Return the size of the next message, whose prefix is complete."""
        return int.from_bytes(self._buffer[1:PREFIX_BYTES], "big")

    def _begin_large(self) -> None:
        """Assemble the next message in memory of its size if it is large, and is being read.

        Thousands of streams may wait to be read, and each may announce a large message.
        """
        if self._ready is not None or len(self._buffer) <= DEFAULT_WINDOW:
            return
        size = self._announced()
        if LARGE_BYTES < size <= self._max_bytes:
            self._is_large_packed = bool(self._buffer[0])
            self._large = LargeBuffer(size)
            end = PREFIX_BYTES + self._large.add(memoryview(self._buffer)[PREFIX_BYTES:])
            del self._buffer[:end]

    def clear(self) -> None:
        """Drop all bytes."""
        self._buffer = bytearray()
        self._ready = self._large = None

    @property
    def is_packed(self) -> bool:
        """Whether the next message, which must be complete, is compressed."""
        if self._large is not None:
            return self._is_large_packed
        return self._ready is None and bool(self._buffer[0])

    async def take(self) -> Buffer:
        """Return the next message, which must be complete. Raises MessageError if it is refused, or cleared."""
        if self.missing:
            raise MessageError(grpc.StatusCode.CANCELLED, "the stream has ended")
        is_packed = self.is_packed
        message = self.take_as_sent()
        if not is_packed:
            return message
        if len(message) <= _SMALL_PACKED_BYTES:
            return self._unpacked(message)
        return await asyncio.to_thread(self._unpacked, message)

    def take_as_sent(self) -> Buffer:
        """Return the next message, which must be complete, without unpacking it.

        Raises MessageError if it is too long.
        """
        if self._ready is not None:
            message, self._ready = self._ready, None
            if self._buffer:
                self._begin_large()
            return message
        if self._large is not None:
            large, self._large = self._large, None
            self._begin_large()
            return large.message()
        size = self._announced()
        if size > self._max_bytes:
            raise self._too_long(f"{size} bytes")
        end = PREFIX_BYTES + size
        message = bytes(memoryview(self._buffer)[PREFIX_BYTES:end])
        del self._buffer[:end]
        self._begin_large()
        return message

    def _unpacked(self, packed: Buffer) -> bytes:
        """Return the decompressed message. Raises MessageError if it is damaged or too long."""
        if self._encoding not in _WINDOW_BITS:
            is_identity = self._encoding == "identity"
            raise MessageError(
                grpc.StatusCode.INTERNAL if is_identity else grpc.StatusCode.UNIMPLEMENTED,
                f"a message is compressed as {self._encoding[:40]!r}, expected one of: identity, deflate, gzip",
            )
        try:
            return self._inflated(packed)
        except zlib.error as error:
            raise MessageError(grpc.StatusCode.INTERNAL, f"a message is not {self._encoding}") from error

    def _inflated(self, packed: Buffer) -> bytes:
        """Unpack a message in small steps: one large step would copy all its bytes while it holds the GIL.

        Raises MessageError if it is damaged or too long.
        """
        unpack = zlib.decompressobj(_WINDOW_BITS[self._encoding])
        parts: list[bytes] = []
        size = 0
        for at in range(0, len(packed), _STEP_BYTES):
            rest: Buffer = packed[at : at + _STEP_BYTES]
            is_more = True
            while is_more and not unpack.eof:
                parts.append(unpack.decompress(rest, _STEP_BYTES))
                rest = unpack.unconsumed_tail
                is_more = bool(rest) or len(parts[-1]) == _STEP_BYTES
                size += len(parts[-1])
                if size > self._max_bytes:
                    raise self._too_long(f"at least {size} bytes")
        if not unpack.eof:
            raise MessageError(grpc.StatusCode.INTERNAL, f"a message of {self._encoding} is cut off")
        return b"".join(parts)  # releases the GIL, because all parts are bytes

    def _too_long(self, size: str) -> MessageError:
        message = f"a message has {size}, at most {self._max_bytes} are accepted: shorten or split it"
        return MessageError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


def prefixed(message: Buffer) -> bytes:
    """Return the five bytes before a message that is not compressed."""
    return _PREFIX.pack(0, len(message))

"""HTTP/2 frames that no client library sends, and a connection that sends them.

Source of the numbers: RFC 9113 and RFC 7541.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_FLAGS = 0
EMBED = b"/midrib.v1.EmbeddingService/Embed"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def number(value: int, prefix: int = 0x7F) -> bytes:
    """Return an integer as RFC 7541, 5.1 encodes it."""
    if value < prefix:
        return bytes([value])
    value, encoded = value - prefix, bytes([prefix])
    while value >= 128:
        value, encoded = value // 128, encoded + bytes([value % 128 + 128])
    return encoded + bytes([value])


def header(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    return (b"\x40" if indexed else b"\x00") + number(len(name)) + name + number(len(value)) + value


def head(*more: tuple[bytes, bytes], path: bytes = EMBED) -> bytes:
    """Return the header block of a call."""
    pairs = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    pairs += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return b"".join(header(*pair) for pair in [*pairs, *more])


def message(content: bytes, *, declared: int | None = None) -> bytes:
    """Return a gRPC message; declared: its length by its prefix, if that differs."""
    return struct.pack(">BI", 0, len(content) if declared is None else declared) + content


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, NO_FLAGS, 0)
# Once the answer to this arrives, the server has handled all that was sent before.
LAST_PING = frame(PING, NO_FLAGS, 0, b"the last")


class Connection:
    """A connection that sends any frames."""

    def __init__(self, address: str, preface: bytes = PREFACE) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._reader = self._socket.makefile("rb")
        self._socket.sendall(preface)

    def send(self, frames: Iterable[bytes]) -> None:
        """Send frames until the server closes the connection. Its answers lie in the buffers of the sockets."""
        with contextlib.suppress(ConnectionError):
            for part in frames:
                self._socket.sendall(part)

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield kind, flags and payload of the server's frames, until it closes the connection; answer its pings.

        A server of grpcio that ages or stops waits 20 s for the answer to one before it closes.
        """
        with contextlib.suppress(ConnectionError):
            while len(start := self._reader.read(9)) == 9:
                kind, flags, payload = start[3], start[4], self._reader.read(int.from_bytes(start[:3], "big"))
                if kind == PING and not flags & ACK:
                    self.send([frame(PING, ACK, 0, payload)])
                yield kind, flags, payload

    def until(self, kind: int, *, flags: int = NO_FLAGS, payload: bytes = b"") -> bool:
        """Return whether such a frame came before the server closed the connection."""
        return any(
            sent_kind == kind and sent_flags & flags == flags and payload in sent
            for sent_kind, sent_flags, sent in self.frames()
        )

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

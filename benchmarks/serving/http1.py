"""A minimal HTTP/1.1 client with persistent connections, so that the rivals are not limited by their client."""

from __future__ import annotations

import asyncio
from typing import Final, cast

_END: Final = b"\r\n\r\n"


class HttpError(Exception):
    """A status other than 200; the message is the status line and the body's beginning."""


class Connection(asyncio.Protocol):
    """One request at a time over one connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._needed: int | None = None
        self._answer: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending request."""
        answer = getattr(self, "_answer", None)
        if answer is not None and not answer.done():
            answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Complete the pending request once head and body have arrived."""
        self._buffer += data
        if self._needed is None:
            end = self._buffer.find(_END)
            if end < 0:
                return
            self._needed = end + len(_END) + _content_length(bytes(self._buffer[:end]))
        if len(self._buffer) >= self._needed:
            response, self._buffer, self._needed = bytes(self._buffer), bytearray(), None
            if not self._answer.done():
                self._settle(response)

    async def post(self, request: bytes) -> bytes:
        """Send a request, and return the body of its answer. Raises HttpError, ConnectionError."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _settle(self, response: bytes) -> None:
        head, _, body = response.partition(_END)
        status = head.split(b"\r\n", 1)[0]
        if b" 200 " in status + b" ":
            self._answer.set_result(body)
        else:
            self._answer.set_exception(HttpError(f"{status.decode()}: {body[:200].decode(errors='replace')}"))


def encode_post(path: str, body: bytes, content_type: str) -> bytes:
    """Return the bytes of a POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return head.encode() + _END + body


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise HttpError(f"an answer without Content-Length: {head[:200]!r}")

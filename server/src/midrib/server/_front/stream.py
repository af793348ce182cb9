"""One HTTP/2 stream, which carries one call: its messages in both directions, within flow control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from midrib.server._front.frames import (
    DATA,
    DEFAULT_WINDOW,
    LARGEST_WINDOW,
    ErrorCode,
    StreamError,
    frame_head,
    header_frames,
    reset,
    window_update,
)
from midrib.server._front.headers import RequestHead, only_trailers, response_head
from midrib.server._front.messages import PREFIX_BYTES, Assembler, prefixed
from midrib.server._front.sending import Sender
from midrib.server._large import Buffer

# The bytes that a stream of messages may send while it is not being read. A unary call sends only its message.
_AHEAD_BYTES = 2**20
# The bytes of a message that are copied next to its prefix. The rest is sent from where it is.
_JOINED_BYTES = 2**14


class StreamParent(Protocol):
    """The part of a connection that its streams report to."""

    def progress(self) -> None:
        """Note that a message has been received or is being sent."""

    def ended(self, stream: Http2Stream) -> None:
        """Remove a stream that has ended."""


class Http2Stream:
    """One stream.

    on_lost: called when the client cancels the call or leaves.
    assembler: the client's messages.  client_ended: whether the client has sent all.
    receive_window, send_window: the bytes that either side may still send.
    pending: the bytes that wait for flow control; None if there are none.
    """

    __slots__ = (
        "_ahead_bytes",
        "_began",
        "_forward",
        "_parent",
        "_reader",
        "_rest",
        "_sender",
        "_writers",
        "assembler",
        "client_ended",
        "head",
        "id",
        "is_closed",
        "on_lost",
        "pending",
        "receive_window",
        "send_window",
    )

    def __init__(
        self, stream_id: int, head: RequestHead, sender: Sender, parent: StreamParent, *, max_message_bytes: int
    ) -> None:
        self.id = stream_id
        self.head = head
        self.is_closed = False
        self.on_lost: Callable[[], None] | None = None
        self.receive_window = DEFAULT_WINDOW
        self.send_window = DEFAULT_WINDOW
        self.pending: memoryview | None = None
        self._sender = sender
        self._parent = parent
        self.assembler = Assembler(head.encoding, max_message_bytes)
        self._ahead_bytes = DEFAULT_WINDOW
        self.client_ended = False
        self._began = False
        self._rest: memoryview | None = None  # the rest of the message whose first bytes are pending
        self._reader: asyncio.Future[None] | None = None
        self._forward: Callable[[], None] | None = None
        self._writers: list[asyncio.Future[None]] = []

    # From the client

    def receive(self, payload: bytes, size: int) -> None:
        """Take the payload of a DATA frame, which counts with `size` bytes. Raises StreamError beyond the window."""
        self.receive_window -= size
        if self.receive_window < 0:
            raise StreamError(
                ErrorCode.FLOW_CONTROL_ERROR, f"{-self.receive_window} bytes more than the window of the stream"
            )
        self.assembler.feed(payload)
        if self._forward is not None:
            self._forward()
        if self._reader is None:
            return
        if self.assembler.missing:
            self.grant()
        else:
            self._wake()

    def receive_end(self) -> None:
        """Note the end of the client's half. Raises StreamError if it has ended before."""
        if self.client_ended:
            raise StreamError(ErrorCode.STREAM_CLOSED, "a frame after the end of the stream")
        self.client_ended = True
        if self._forward is not None:
            self._forward()
        self._wake()

    def check_open(self) -> None:
        """Raise StreamError if the client has ended its half."""
        if self.client_ended:
            raise StreamError(ErrorCode.STREAM_CLOSED, "a frame after the end of the stream")

    def lost(self) -> None:
        """End the stream: the client has reset it, or its connection is gone."""
        if self.is_closed:
            return
        self._close()
        if self.on_lost is not None:
            self.on_lost()

    def _close(self) -> None:
        """Free the messages in both directions: a reference to the stream may last longer than its call."""
        self.is_closed, self.pending, self._rest = True, None, None
        self.assembler.clear()
        self._wake_writers()

    def grow_send_window(self, increment: int) -> None:
        """Let more bytes be sent. Raises StreamError if the window becomes larger than HTTP/2 allows."""
        self.send_window += increment
        if self.send_window > LARGEST_WINDOW:
            raise StreamError(
                ErrorCode.FLOW_CONTROL_ERROR, f"the window of the stream, {self.send_window} bytes, is beyond 31 bits"
            )

    # To the call

    def forward_to(self, forward: Callable[[], None]) -> None:
        """Call a function when bytes or the end of the client's half have arrived, and now."""
        self._forward = forward
        forward()

    def read_ahead(self) -> None:
        """Let the client send further messages while one is handled."""
        self._ahead_bytes = _AHEAD_BYTES

    async def read(self) -> Buffer | None:
        """Return the next message; None if the client has sent all. Raises MessageError if it is refused."""
        while self.assembler.missing:
            if self.client_ended:
                return None
            self.grant()
            reader = self._reader = asyncio.get_running_loop().create_future()
            try:
                await reader
            finally:
                if self._reader is reader:  # it is another one if a read was cancelled and the next has begun
                    self._reader = None
        self.progress()
        return await self.assembler.take()

    def progress(self) -> None:
        """Note that a message has been received."""
        self._parent.progress()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def grant(self) -> None:
        """Grow the client's window to the rest of the message that is being read, and the bytes in advance."""
        needed = self.assembler.missing
        target = min(needed + self._ahead_bytes, LARGEST_WINDOW)
        if self.receive_window < max(needed, target // 2):
            self._sender.send(window_update(self.id, target - self.receive_window))
            self.receive_window = target

    # To the client

    async def write(self, message: Buffer) -> None:
        """Send a message; returns once flow control has let it go. Does nothing once the stream is closed."""
        if self.pending is not None:  # a write was cancelled in the middle of its message
            await self.drained()
        if self.is_closed or self.write_at_once(message):
            return
        self._sender.send(*self._beginning())
        self._rest = memoryview(message)[_JOINED_BYTES:]
        self.pending = memoryview(b"".join((prefixed(message), message[:_JOINED_BYTES])))
        self._sender.send_later(self)
        await self.drained()

    def write_at_once(self, message: Buffer) -> bool:
        """Send a message if flow control lets it go now, and no other waits; return whether it is sent."""
        self._parent.progress()
        size = PREFIX_BYTES + len(message)
        if self.pending is not None or not self._sender.send_at_once(self, size):
            return False
        self._sender.send(*self._beginning(), frame_head(size, DATA, 0, self.id), prefixed(message), message)
        return True

    async def drained(self) -> None:
        """Return once all messages are sent, or the stream is closed."""
        while self.pending is not None:
            writer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._writers.append(writer)
            await writer

    async def written(self) -> None:
        """Return once all messages are sent and the transport has room for a status, or the stream is closed."""
        await self.drained()
        if not self.is_closed:
            await self._sender.writable()

    async def finish(self, trailers: bytes) -> None:
        """End the stream with trailers after all messages; returns once they are sent, or the stream is closed."""
        await self.written()
        self.end(trailers)

    def can_end(self) -> bool:
        """Return whether all messages are sent and the transport has room for a status."""
        return self.pending is None and not self._sender.is_paused

    def close_connection(self) -> None:
        """Close the connection of the stream without its last bytes."""
        self._sender.abort()

    def sent(self, rest: memoryview | None) -> None:
        """Note the bytes that are still pending; None if all are sent."""
        self.pending = rest
        if rest is None:
            self._wake_writers()

    def next_part(self) -> memoryview | None:
        """Return the rest of the message whose first bytes are all sent; None if there is none."""
        rest, self._rest = self._rest, None
        return rest or None

    def _wake_writers(self) -> None:
        for writer in self._writers:
            if not writer.done():
                writer.set_result(None)
        self._writers.clear()

    def _beginning(self) -> tuple[bytes, ...]:
        if self._began:
            return ()
        self._began = True
        return (header_frames(self.id, response_head(), ends_stream=False),)

    def end(self, trailers: bytes) -> None:
        """End the stream with trailers. A client that is still sending is asked to stop."""
        if self.is_closed:
            return
        self._close()
        block = trailers if self._began else only_trailers(self.head.http_status, trailers)
        self._sender.send(header_frames(self.id, block, ends_stream=True))
        if not self.client_ended:
            self._sender.send(reset(self.id, ErrorCode.NO_ERROR))
        self._parent.ended(self)

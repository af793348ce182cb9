"""The bytes that a connection sends: within the windows of HTTP/2, and no faster than the client reads them."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from midrib.server._front.frames import (
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    LARGEST_WINDOW,
    ErrorCode,
    Http2Error,
    data_frames,
)

# DATA waits while the transport holds this many bytes that the client's machine has not taken.
TRANSPORT_BYTES = 256 * 1024
# The frames without content, such as answers to pings, that may also wait. A client that causes more reads nothing.
_MAX_WAITING_FRAMES = 10_000
# The bytes that a stream sends before the next waiting stream sends.
_SHARE_BYTES = 64 * 1024
_LARGEST_FRAME = 64 * 1024
# Seconds for sending in one iteration of the event loop: the kernel may take longer than copying does.
_SENDING_S = 0.004


class Transport(Protocol):
    """The part of asyncio's transport that is used here."""

    def write(self, data: bytes, /) -> None:
        """Send bytes."""

    def is_closing(self) -> bool:
        """Return whether nothing can be sent any more."""

    def abort(self) -> None:
        """Close the connection without its last bytes."""


class SendingStream(Protocol):
    """The part of a stream that sends.

    send_window: the bytes that it may still send.  pending: those that wait for flow control; None if there are none.
    """

    id: int
    send_window: int
    pending: memoryview | None

    def next_part(self) -> memoryview | None:
        """Return the bytes that follow the pending ones of the same message; None if there are none."""

    def sent(self, rest: memoryview | None) -> None:
        """Note the bytes that are still pending; None if all are sent."""


class Sender:
    """Sends frames, and holds DATA back. All parts of one iteration of the event loop are written together.

    window: the bytes of DATA that the client lets the connection send.
    abort: closes the connection without its last bytes.
    is_paused: whether the transport is full, because the client's machine takes less than is sent.
    """

    def __init__(self, transport: Transport) -> None:
        self.window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_MAX_FRAME
        self.is_paused = False
        self.abort = transport.abort
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes | memoryview] = []
        self._data_bytes = 0  # the DATA bytes in the parts
        self._is_scheduled = False
        self._may_pump = self._pumps_later = False
        self._waiting: dict[SendingStream, None] = {}
        self._waiting_frames = 0
        self._paused_calls: list[asyncio.Future[None]] = []

    async def writable(self) -> None:
        """Return once the transport is not full."""
        while self.is_paused:
            call: asyncio.Future[None] = self._loop.create_future()
            self._paused_calls.append(call)
            await call

    def resume(self) -> None:
        """Send the waiting DATA: the transport has room again."""
        self.is_paused = False
        for call in self._paused_calls:
            if not call.done():
                call.set_result(None)
        self._paused_calls.clear()
        self.pump()

    def send(self, *parts: bytes | memoryview) -> None:
        """Send parts of frames."""
        self._parts += parts
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write all parts now."""
        self._is_scheduled = False
        self._data_bytes = 0
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def check_read(self) -> None:
        """Raise Http2Error if many frames wait because the client does not read."""
        if not self.is_paused:
            self._waiting_frames = 0
            return
        self._waiting_frames += 1
        if self._waiting_frames > _MAX_WAITING_FRAMES:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "answers_not_read")

    def send_at_once(self, stream: SendingStream, size: int) -> bool:
        """Reserve `size` bytes of both windows if the DATA can be sent now; return whether it can."""
        if self.is_paused or self._waiting or self._data_bytes > TRANSPORT_BYTES:
            return False
        if size > self.max_frame or size > self.window or size > stream.send_window:
            return False
        self._data_bytes += size
        self.window -= size
        stream.send_window -= size
        return True

    def send_later(self, stream: SendingStream) -> None:
        """Send the pending bytes of a stream as flow control allows."""
        self._waiting[stream] = None
        self.pump()

    def grow(self, increment: int) -> None:
        """Let more bytes be sent. Raises Http2Error if the window becomes larger than HTTP/2 allows."""
        self.window += increment
        if self.window > LARGEST_WINDOW:
            raise Http2Error(
                ErrorCode.FLOW_CONTROL_ERROR, f"the window of the connection, {self.window} bytes, is beyond 31 bits"
            )
        self.pump_soon()

    def set_max_frame(self, size: int) -> None:
        """Follow the client's largest frame."""
        self.max_frame = min(size, _LARGEST_FRAME)

    def pump_soon(self) -> None:
        """Let the next `pump_if_possible` send, because a window has grown."""
        self._may_pump = True

    def pump_if_possible(self) -> None:
        """Send the waiting DATA if a window has grown."""
        if self._may_pump:
            self._may_pump = False
            self.pump()

    def pump(self) -> None:
        """Send the waiting DATA, a share of each stream after the other, until a window or the transport is full.

        A fast client may take all bytes at once: the rest is sent in later iterations of the event loop.
        """
        self.flush()
        end_s = time.monotonic() + _SENDING_S
        progressing = True
        while progressing and self._waiting:
            progressing = False
            for stream in list(self._waiting):
                if self.window <= 0 or self.is_paused:
                    return
                if time.monotonic() > end_s:
                    self._pump_later()
                    return
                progressing = self._send_part(stream) or progressing
                self.flush()

    def _pump_later(self) -> None:
        if not self._pumps_later:
            self._pumps_later = True
            self._loop.call_soon(self._pump_rest)

    def _pump_rest(self) -> None:
        self._pumps_later = False
        if not self.is_paused:
            self.pump()

    def _send_part(self, stream: SendingStream) -> bool:
        """Send a part of a stream's pending bytes; return whether there was anything to send."""
        pending = stream.pending
        if pending is None:
            self._waiting.pop(stream, None)
            return False
        size = min(len(pending), self.window, stream.send_window, _SHARE_BYTES)
        if size <= 0:
            return False
        self._waiting.pop(stream)
        self.send(*data_frames(stream.id, pending[:size], self.max_frame))
        self.window -= size
        stream.send_window -= size
        rest = pending[size:] if size < len(pending) else stream.next_part()
        if rest is not None:
            self._waiting[stream] = None  # behind the others
        stream.sent(rest)
        return True

    def forget(self, stream: SendingStream) -> None:
        """Send nothing more of a stream."""
        self._waiting.pop(stream, None)

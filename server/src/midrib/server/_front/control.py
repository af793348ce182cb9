"""The frames that carry no call: settings, windows and pings."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from midrib.server._front import frames
from midrib.server._front.frames import (
    DEFAULT_WINDOW,
    LARGEST_WINDOW,
    ErrorCode,
    Http2Error,
    Setting,
    StreamError,
)
from midrib.server._front.limits import AbuseCounter
from midrib.server._front.sending import Sender
from midrib.server._front.stream import Http2Stream

# A smaller increase of a window counts as a frame without content.
_USUAL_INCREMENT = 1024
# A client that grants the bytes it has received sends at most one update for this many of them.
_BYTES_PER_UPDATE = 512
# Counted as this many frames without content, because settings change the window of every stream.
_SETTINGS_WEIGHT = 8


class Control:
    """Follows the client's settings, windows and pings.

    client_stream_window: the bytes that a new stream may send to the client.
    open_stream: returns an open stream by its number, None for one that has ended. Raises Http2Error for any other.
    ponged: called when the client answers a ping.
    """

    def __init__(
        self,
        sender: Sender,
        abuse: AbuseCounter,
        streams: Mapping[int, Http2Stream],
        *,
        open_stream: Callable[[int], Http2Stream | None],
        ponged: Callable[[], None],
    ) -> None:
        self.client_stream_window = DEFAULT_WINDOW
        self._sender = sender
        self._abuse = abuse
        self._streams = streams
        self._open_stream = open_stream
        self._ponged = ponged
        self._granted_bytes = DEFAULT_WINDOW
        self._updates = 0

    def settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Follow the client's settings. Raises Http2Error for invalid ones."""
        if stream_id or len(payload) % 6 or (flags & frames.ACK and payload):
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes on stream {stream_id}")
        self._abuse.idle_frame(weight=1 if flags & frames.ACK else _SETTINGS_WEIGHT)
        if flags & frames.ACK:
            return
        # Only the last value of each setting: following one takes time for every stream.
        for key, value in dict(struct.iter_unpack(">HI", payload)).items():
            self._follow(key, value)
        self._sender.check_read()
        self._sender.send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._sender.pump_soon()

    def _follow(self, key: int, value: int) -> None:
        """Follow one setting. Raises Http2Error for a value out of range."""
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes, beyond 31 bits")
            difference, self.client_stream_window = value - self.client_stream_window, value
            self._grow_all(difference)
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME <= value < 2**24:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"a largest frame of {value} bytes")
            self._sender.set_max_frame(value)

    def _grow_all(self, difference: int) -> None:
        """Grow the window of each stream. Raises Http2Error if one becomes too large."""
        try:
            for stream in self._streams.values():
                stream.grow_send_window(difference)
        except StreamError as fault:  # settings are of the whole connection
            raise Http2Error(fault.code, str(fault)) from fault

    def ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Answer a ping, or note the answer to one. Raises Http2Error for a ping of a stream."""
        check_length(payload, 8)
        if stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"a ping of stream {stream_id}")
        if flags & frames.ACK:
            self._abuse.idle_frame()
            self._ponged()
            return
        self._abuse.ping()
        self._sender.check_read()
        self._sender.send(frames.frame(frames.PING, frames.ACK, 0, payload))

    def window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Let more bytes be sent, by a stream or by all. Raises Http2Error or StreamError for 0 bytes."""
        check_length(payload, 4)
        increment = int.from_bytes(payload, "big") & LARGEST_WINDOW
        self._count_update(increment)
        if stream_id == 0:
            if not increment:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "an increase of a window by 0")
            self._granted_bytes += increment
            self._sender.grow(increment)
            return
        stream = self._open_stream(stream_id)
        if not increment:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "an increase of a window by 0")
        if stream is not None:
            stream.grow_send_window(increment)
            self._sender.pump_soon()

    def _count_update(self, increment: int) -> None:
        """Count an update that is small, or that no DATA of the server explains, as a frame without content."""
        self._updates += 1
        sent_bytes = self._granted_bytes - self._sender.window
        if increment < _USUAL_INCREMENT or self._updates * _BYTES_PER_UPDATE > sent_bytes:
            self._abuse.idle_frame()

    def priority(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        """Ignore the priority of a stream, which RFC 9113 deprecates."""
        check_length(payload, 5)
        self._abuse.idle_frame()

    def push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """Raise Http2Error: a client cannot push."""
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def goaway(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """Do nothing: a client that leaves ends its calls and its connection."""
        self._abuse.idle_frame()


def check_length(payload: bytes, size: int) -> None:
    """Raise Http2Error unless the payload of a frame has its size."""
    if len(payload) != size:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {len(payload)} bytes, expected {size}")

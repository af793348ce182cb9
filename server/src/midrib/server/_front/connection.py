"""One connection of a client: its bytes, its age and its end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import quote

from midrib.server._front.frames import (
    HEAD_BYTES,
    LARGEST_STREAM_ID,
    PING,
    PREFACE,
    ErrorCode,
    Http2Error,
    frame,
    go_away,
)
from midrib.server._front.limits import AbuseCounter, FrameTime, FrontLimits
from midrib.server._front.peers import peer_name
from midrib.server._front.sending import TRANSPORT_BYTES, Sender
from midrib.server._front.session import Http2Session
from midrib.server._front.stream import Http2Stream

# Seconds for a client to send its preface, and to answer the ping that follows GOAWAY.
_GREETING_S = 20.0
_PONG_S = 5.0
# Seconds for a client to read the last bytes before its connection is aborted.
_LAST_BYTES_S = 5.0
# TCP finds after two minutes that the machine of a silent client is gone: the system's default is over two hours, for
# which an idle stream would keep its connection. Some systems lack the first name.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class Owner(Protocol):
    """The part of a server that its connections use.

    limits: the limits of each connection.
    """

    limits: FrontLimits

    def opened(self, connection: Http2Connection) -> None:
        """Note a new connection."""

    def closed(self, connection: Http2Connection) -> None:
        """Remove a connection."""

    def start_call(self, connection: Http2Connection, stream: Http2Stream) -> None:
        """Serve the call of a new stream."""


class Http2Connection(asyncio.Protocol):
    """A connection.

    accepts: whether a TLS connection may be used; None without TLS.
    peer: gRPC's name of the client's address.
    """

    def __init__(self, owner: Owner, accepts: Callable[[ssl.SSLObject], bool] | None = None) -> None:
        self.peer = ""
        self.session: Http2Session
        self._owner = owner
        self._accepts = accepts
        self._transport: asyncio.Transport
        self._sender: Sender
        self._rest = b""
        self._is_greeted = self._is_draining = self._is_closing = False
        self._is_waiting = False  # whether frames wait for a later iteration of the event loop
        self._last_call_s = 0.0
        self._timers: list[asyncio.TimerHandle] = []

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the settings of the server."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=TRANSPORT_BYTES)
        _set_options(transport.get_extra_info("socket"))
        self.peer = quote(peer_name(transport.get_extra_info("peername")), safe=":%")
        tls = transport.get_extra_info("ssl_object")
        if self._accepts is not None and (tls is None or not self._accepts(tls)):
            self._is_closing = True
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._last_call_s = loop.time()
        self._frame_time = FrameTime.of(loop)
        self._sender = Sender(self._transport)
        abuse = AbuseCounter(self._owner.limits, loop.time)
        self.session = Http2Session(
            self._owner.limits, self._sender, abuse, start=self._start_call, ponged=self._ponged
        )
        self.session.greet()
        self._owner.opened(self)
        self._later(_GREETING_S, self._close_unless_greeted)
        self._later(self._owner.limits.idle_s, self._drain_if_idle)
        if self._owner.limits.age_s is not None:
            self._later(self._owner.limits.age_s, self._drain_of_age)

    def data_received(self, data: bytes) -> None:
        """Handle the frames that have arrived."""
        self._rest = self._rest + data if self._rest else data
        if not self._is_waiting:
            self._handle_frames()

    def pause_writing(self) -> None:
        """Hold DATA back: the transport is full."""
        self._sender.is_paused = True

    def resume_writing(self) -> None:
        """Send the waiting DATA."""
        self._sender.resume()

    def connection_lost(self, _error: Exception | None) -> None:
        """Cancel all calls."""
        self._is_closing = True
        for timer in self._timers:
            timer.cancel()
        if hasattr(self, "session"):
            self.session.lost()
            self._sender.resume()  # calls that wait for room would keep the connection in memory
        self._owner.closed(self)

    # For the server

    def call_ended(self) -> None:
        """Note that the handler of a call has ended."""
        self.session.call_ended()
        self._last_call_s = asyncio.get_running_loop().time()
        self._close_if_drained()

    def drain(self, reason: bytes) -> None:
        """Ask the client to open another connection. The calls of this one end first, also those on their way."""
        if self._is_draining or self._is_closing:
            return
        self._is_draining = True
        self._sender.send(go_away(LARGEST_STREAM_ID, ErrorCode.NO_ERROR, reason), frame(PING, 0, 0, bytes(8)))
        self._later(_PONG_S, self._ponged)

    def close(self, code: ErrorCode, reason: bytes) -> None:
        """End the connection and its calls now."""
        if self._is_closing:
            return
        self._sender.send(go_away(self.session.last_id, code, reason))
        self._close_transport()
        self.session.lost()

    def abort(self) -> None:
        """Close the connection without its last bytes."""
        self._transport.abort()

    # Frames

    def _start_call(self, stream: Http2Stream) -> None:
        self._frame_time.call_started()
        self._owner.start_call(self, stream)

    def _handle_frames(self) -> None:
        """Handle frames while the event loop has time for them, and the rest in its next iterations."""
        if self._is_closing:
            self._rest = b""
            return
        try:
            is_all = self._receive(self._rest)
            self._sender.pump_if_possible()
        except Http2Error as fault:
            self.close(fault.code, str(fault).encode())
            return
        if self._is_closing:  # a frame has ended the drain
            return
        if not is_all:
            self._frame_time.wait(self._handle_frames)
        if is_all == self._is_waiting:
            self._is_waiting = not is_all
            (self._transport.resume_reading if is_all else self._transport.pause_reading)()

    def _receive(self, data: bytes) -> bool:
        """Handle the frames in `data` and keep the rest; return whether all complete frames are handled."""
        at = 0
        if not self._is_greeted:
            at = self._greeting(data)
        end = len(data)
        is_left = True
        while self._is_greeted and end - at >= HEAD_BYTES:
            size = int.from_bytes(data[at : at + 3], "big")
            self.session.check_size(size)
            stop = at + HEAD_BYTES + size
            if stop > end:
                break
            if not (is_left := self._frame_time.is_left()):
                break
            stream_id = int.from_bytes(data[at + 5 : at + 9], "big") & LARGEST_STREAM_ID
            self.session.handle(data[at + 3], data[at + 4], stream_id, data[at + HEAD_BYTES : stop])
            at = stop
        self._rest = data[at:]
        return is_left

    def _greeting(self, data: bytes) -> int:
        """Read the preface of the client; return where the frames begin. Raises Http2Error for another one."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "expected HTTP/2")
        if len(data) < len(PREFACE):
            return 0
        self._is_greeted = True
        return len(PREFACE)

    # The end of the connection

    def _later(self, seconds: float, call: Callable[[], Any]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, call))

    def _close_unless_greeted(self) -> None:
        if not self._is_greeted:
            self.close(ErrorCode.PROTOCOL_ERROR, b"no_greeting")

    def _drain_if_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        rest_s = self._owner.limits.idle_s - (now - self._last_call_s)
        if self.session.active or rest_s > 0:
            self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > now]
            self._later(max(rest_s, self._owner.limits.idle_s / 4), self._drain_if_idle)
        else:
            self.drain(b"connection idle")

    def _drain_of_age(self) -> None:
        self.drain(b"max_age")
        self._later(self._owner.limits.age_grace_s, self._close_of_age)

    def _close_of_age(self) -> None:
        self.close(ErrorCode.NO_ERROR, b"max_age")

    def _ponged(self) -> None:
        """Refuse further streams: the client has read GOAWAY before it answered the ping."""
        if self._is_draining and not self._is_closing and not self.session.refuses_streams:
            self.session.refuses_streams = True
            self._sender.send(go_away(self.session.last_id, ErrorCode.NO_ERROR, b""))
            self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self.session.refuses_streams and not self.session.active and not self._is_closing:
            self._close_transport()

    def _close_transport(self) -> None:
        self._sender.flush()
        self._is_closing = True
        self._transport.close()
        self._later(_LAST_BYTES_S, self._transport.abort)


def _set_options(connection: socket.socket | None) -> None:
    """Send small frames at once, and let TCP notice that a client's machine is gone.

    asyncio sets TCP_NODELAY only on the connections of some listening sockets.
    """
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

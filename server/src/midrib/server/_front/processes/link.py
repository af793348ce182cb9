"""Records over a Unix socket between the engine's process and a front process."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from midrib.server._front.messages import LargeBuffer
from midrib.server._large import LARGE_BYTES, Buffer

# The head of a record: its kind, the number of its call, the bytes of its payload.
_HEAD = struct.Struct("<BQI")
_READ_BYTES = 256 * 1024
# Smaller payloads are copied next to their heads; larger ones are sent from where they are.
_COPIED_BYTES = 16 * 1024
_MAX_PARTS = 256

# Sends in one iteration of the event loop: the other end may read as fast as this one writes.
_MAX_SENDS = 8

# The payload is `bytes`; that of a large message is a read-only memoryview.
Handler: TypeAlias = Callable[[int, Any], None]
CallT = TypeVar("CallT")


def for_call(calls: Mapping[int, CallT], act: Callable[[CallT, Any], object]) -> Handler:
    """Return a handler that acts on the call of a record, with its payload.

    Records of calls that have ended are dropped.
    """

    def handle(number: int, payload: bytes) -> None:
        if (call := calls.get(number)) is not None:
            act(call, payload)

    return handle


class Link:
    """One end of the socket. All records of one iteration of the event loop are sent together.

    max_bytes: the largest payload.
    """

    def __init__(self, connected: socket.socket, max_bytes: int) -> None:
        connected.setblocking(False)
        self.is_closed = False
        self._socket = connected
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._handlers: Sequence[Handler] = ()
        self._lost: Callable[[], None] = self.close
        self._received = bytearray()
        self._large: LargeBuffer | None = None  # the payload that is being received
        self._large_head = 0, 0  # the kind and the call of its record
        self._parts: list[Buffer] = []
        self._unsent: deque[Buffer] = deque()
        self._is_scheduled = self._is_full = False

    def start(self, handlers: Sequence[Handler], lost: Callable[[], None]) -> None:
        """Receive records.

        handlers: get the number of the call and the payload of a record; by the kind of the record. One raises
        ValueError for a record that breaks the protocol, which ends the link.
        lost: called once if the other end is gone.
        """
        self._handlers, self._lost = handlers, lost
        self._loop.add_reader(self._socket.fileno(), self._receive)

    def send(self, kind: int, call: int, payload: Buffer = b"") -> None:
        """Send a record. Does nothing once the link is closed."""
        if self.is_closed:
            return
        self._parts.append(_HEAD.pack(kind, call, len(payload)))
        if payload:
            self._parts.append(payload)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send all records now, as far as the socket has room."""
        self._is_scheduled = False
        if self.is_closed:
            return
        small: list[Buffer] = []
        for part in self._parts:
            if len(part) > _COPIED_BYTES:
                self._unsent += (b"".join(small), part)
                small.clear()
            else:
                small.append(part)
        if small:
            self._unsent.append(b"".join(small))
        self._parts.clear()
        if not self._is_full:
            self._send_unsent()

    def close(self) -> None:
        """Close this end."""
        if self.is_closed:
            return
        self.is_closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._parts.clear()
        self._unsent.clear()

    def _send_unsent(self) -> None:
        try:
            for _ in range(_MAX_SENDS):
                if not self._unsent:
                    break
                self._drop_sent(self._socket.sendmsg(list(islice(self._unsent, _MAX_PARTS))))
        except BlockingIOError:
            pass
        except OSError:
            self._end()
            return
        is_full = bool(self._unsent)
        if is_full and not self._is_full:
            self._loop.add_writer(self._socket.fileno(), self._send_unsent)
        elif self._is_full and not is_full:
            self._loop.remove_writer(self._socket.fileno())
        self._is_full = is_full

    def _drop_sent(self, size: int) -> None:
        while self._unsent and size >= len(self._unsent[0]):
            size -= len(self._unsent.popleft())
        if size:
            self._unsent[0] = memoryview(self._unsent[0])[size:]

    def _receive(self) -> None:
        large = self._large
        try:
            if large is None:
                self._received += (data := self._socket.recv(_READ_BYTES))
                size = len(data)
            else:
                size = self._socket.recv_into(large.room(_READ_BYTES))
                large.grow(size)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._end()
            return
        try:
            self._handle_large()
            self._handle_received()
        except (ValueError, LookupError, struct.error):
            self._end()

    def _handle_large(self) -> None:
        if self._large is not None and not self._large.missing:
            payload, self._large = self._large.message(), None
            kind, call = self._large_head
            self._handlers[kind](call, payload)

    def _handle_received(self) -> None:
        """Handle each complete record. Raises ValueError if one is announced that is too long."""
        at, end = 0, len(self._received)
        while end - at >= _HEAD.size and not self.is_closed:
            kind, call, size = _HEAD.unpack_from(self._received, at)
            if size > self._max_bytes:
                raise ValueError(f"a record of {size} bytes is announced, expected at most {self._max_bytes}")
            stop = at + _HEAD.size + size
            if stop > end and size > LARGE_BYTES:
                self._large, self._large_head = LargeBuffer(size), (kind, call)
                at += _HEAD.size + self._large.add(memoryview(self._received)[at + _HEAD.size :])
            if stop > end:
                break
            self._handlers[kind](call, bytes(memoryview(self._received)[at + _HEAD.size : stop]))
            at = stop
        del self._received[:at]

    def _end(self) -> None:
        if not self.is_closed:
            self.close()
            self._lost()

"""Messages over a stream socket: four bytes of length, then the message."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import deque

_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 13
# The most bytes of a reply to a batch. Bytes that a module writes into the socket may announce a message of gigabytes.
_MAX_READY_BYTES = 1 << 20
# The most bytes of any message: the description of a backbone has its tokenizer.
_MAX_BYTES = 1 << 30


class Channel:
    """One end of the socket between the server's process and a worker. Any thread may send, one at a time receives.

    takes_descriptors: whether descriptors are received; at the other end they are closed unseen.
    descriptors: those that came with the messages, at most one with each; the receiver closes them.
    """

    def __init__(self, sock: socket.socket, *, takes_descriptors: bool = False) -> None:
        self.descriptors: deque[int] = deque()
        self._takes_descriptors = takes_descriptors
        self._socket = sock
        self._sending = threading.Lock()
        self._received = bytearray()

    def send(self, message: bytes) -> None:
        """Send a message. Raises OSError if the other end is gone, or reads so little that the message does not fit."""
        with self._sending:
            self._socket.sendall(_LENGTH.pack(len(message)) + message)

    def send_with_descriptor(self, message: bytes, descriptor: int) -> None:
        """Send a message and a descriptor, which stays open here too. Raises OSError as `send` does."""
        data = _LENGTH.pack(len(message)) + message
        with self._sending:
            sent = socket.send_fds(self._socket, [data], [descriptor])
            self._socket.sendall(data[sent:])

    def receive(self, timeout_s: float | None = None) -> bytes:
        """Return the next message.

        Raises TimeoutError if none has arrived in time (the bytes that have arrived are kept), EOFError if the other
        end is gone, ValueError if a message is announced that is longer than any.
        """
        if self._socket.gettimeout() != timeout_s:
            self._socket.settimeout(timeout_s)
        while (message := self._pop()) is None:
            self._check_announced(_MAX_BYTES)
            self._fill()
        return message

    def receive_ready(self) -> list[bytes]:
        """Return the messages that have arrived, without waiting.

        Raises EOFError if the other end is gone, ValueError if a message is announced that is longer than any reply.
        """
        if self._socket.gettimeout() != 0.0:
            self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self._fill()
        messages = []
        while (message := self._pop()) is not None:
            messages.append(message)
        self._check_announced(_MAX_READY_BYTES)
        return messages

    def has_arrivals(self) -> bool:
        """Return whether bytes have arrived that were not received yet, or the other end is gone."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(self._received or poll.poll(0))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._socket.fileno() < 0

    def fileno(self) -> int:
        """Return the descriptor of this end."""
        return self._socket.fileno()

    def _check_announced(self, most: int) -> None:
        """Raise ValueError for a message that is too long."""
        if len(self._received) < _LENGTH.size:
            return
        announced = _LENGTH.unpack_from(self._received)[0]
        if announced > most:
            raise ValueError(f"a message of {announced} bytes is announced, expected at most {most}")

    def _pop(self) -> bytes | None:
        """Return the first message of the bytes received; None if it is not complete."""
        if len(self._received) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
        if len(self._received) < end:
            return None
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message

    def _fill(self) -> None:
        """Receive some bytes. Raises EOFError at the end of the channel."""
        try:
            chunk = self._receive_with_descriptors() if self._takes_descriptors else self._socket.recv(_CHUNK)
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise EOFError("the other end of the channel is closed")
        self._received += chunk

    def _receive_with_descriptors(self) -> bytes:
        """Return some bytes; Linux ends them with the message that a descriptor came with."""
        chunk, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        self.descriptors += descriptors
        return chunk

"""Messages over a stream socket: four bytes of length, then the message."""

from __future__ import annotations

import socket
import struct
import threading

_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 16


class Channel:
    """One end of the socket between the server's process and a worker. Any thread may send, one at a time receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sender = sock.dup()  # a time limit for receiving must not limit sending
        self._sender.settimeout(None)
        self._sending = threading.Lock()
        self._received = bytearray()

    def send(self, message: bytes) -> None:
        """Send a message; raises OSError if the other end is gone."""
        with self._sending:
            self._sender.sendall(_LENGTH.pack(len(message)) + message)

    def receive(self, timeout_s: float | None = None) -> bytes:
        """Return the next message.

        Raises TimeoutError if none has arrived in time (what has arrived of it is kept), EOFError if the other end
        is gone.
        """
        self._socket.settimeout(timeout_s)
        length = _LENGTH.unpack(self._take(_LENGTH.size, keep=True))[0]
        return self._take(_LENGTH.size + length, keep=False)[_LENGTH.size :]

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
        self._sender.close()

    def fileno(self) -> int:
        """Return the descriptor of this end."""
        return self._socket.fileno()

    def _take(self, count: int, *, keep: bool) -> bytes:
        while len(self._received) < count:
            try:
                chunk = self._socket.recv(max(_CHUNK, count - len(self._received)))
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise EOFError("the other end of the channel is closed")
            self._received += chunk
        taken = bytes(self._received[:count])
        if not keep:
            del self._received[:count]
        return taken

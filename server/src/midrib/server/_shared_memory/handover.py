"""The Unix socket from which clients get the descriptors of their segments. All methods are for the event loop.

A client connects, sends the key of its stream and receives the descriptor. The socket lies in Linux's abstract
namespace: it has no file, and ends with the server. Containers with another network do not see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from functools import partial

from midrib.wire import peer_user

KEY_BYTES = 16
# The connections that may wait to send their key, and for how long. A client sends it at once.
_MAX_CONNECTIONS = 64
_MAX_KEY_S = 2.0
# How long connections wait if the process has no descriptor left.
_PAUSE_S = 0.1


class HandoverSocket:
    """Hands descriptors to processes of the server's own user that know the key.

    name: the name of the socket, without the leading zero.  Raises OSError if the socket cannot be opened.
    """

    def __init__(self) -> None:
        self.name = f"midrib-{secrets.token_hex(16)}"
        self._loop = asyncio.get_running_loop()
        self._offers: dict[bytes, Callable[[], int | None]] = {}
        self._connections: dict[socket.socket, asyncio.TimerHandle] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(f"\0{self.name}")
            self._socket.listen(_MAX_CONNECTIONS)
        except OSError:
            self._socket.close()
            raise
        self._listen()

    def offer(self, take: Callable[[], int | None]) -> bytes:
        """Return a key. The process that sends it gets the descriptor that `take` returns, once.

        take: returns a descriptor, which is closed after it was sent; None to refuse.
        """
        key = secrets.token_bytes(KEY_BYTES)
        self._offers[key] = take
        return key

    def withdraw(self, key: bytes) -> None:
        """Forget a key, if it has not been used."""
        self._offers.pop(key, None)

    def close(self) -> None:
        """Refuse all further connections."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for connection in list(self._connections):
            self._drop(connection)
        self._offers.clear()

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:  # else closed
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_PAUSE_S, self._listen)
            return
        if len(self._connections) >= _MAX_CONNECTIONS or peer_user(connection) != os.geteuid():
            connection.close()
            return
        connection.setblocking(False)
        self._connections[connection] = self._loop.call_later(_MAX_KEY_S, partial(self._drop, connection))
        self._loop.add_reader(connection, partial(self._answer, connection))

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has left, or no memory is left, and it uses messages
            take = self._offers.pop(connection.recv(KEY_BYTES + 1), None)
            descriptor = None if take is None else take()
            if descriptor is not None:
                _send(connection, descriptor)
        self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._connections.pop(connection).cancel()
        self._loop.remove_reader(connection)
        connection.close()


def _send(connection: socket.socket, descriptor: int) -> None:
    try:
        socket.send_fds(connection, [b"\0"], [descriptor])
    finally:
        os.close(descriptor)

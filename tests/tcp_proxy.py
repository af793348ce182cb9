"""A TCP proxy on a free loopback port. Tests derive proxies from it that choose servers or damage the traffic."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any


class TcpProxy:
    """Passes the bytes of each connection on to a server, in both directions.

    target: the server's "host:port". A subclass sets its attributes before it calls this constructor.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        start(self._accept)

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def handle(self, near: socket.socket) -> None:
        """Start the threads that serve a client's connection."""
        far = self.connect()
        start(self.forward, near, far)
        start(self.forward, far, near)

    def connect(self) -> socket.socket:
        """Return a new connection to the server."""
        host, _, port = self.target.rpartition(":")
        return socket.create_connection((host, int(port)))

    def forward(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass bytes on in one direction, until an end of the connection is closed."""
        with source, sink:
            try:
                while data := source.recv(1 << 14):
                    sink.sendall(data)
            except OSError:
                return

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self.handle(near)


def start(target: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a daemon thread."""
    threading.Thread(target=target, args=arguments, daemon=True).start()

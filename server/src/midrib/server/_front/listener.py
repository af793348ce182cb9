"""The ports of a process and the connections of their clients."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from midrib.server._admission.tls import TlsFiles, renewing_context
from midrib.server._descriptors import ACCEPTED_AT_ONCE, let_wait
from midrib.server._front.connection import Http2Connection, Owner
from midrib.server._front.frames import ErrorCode

_BACKLOG = 4096
_HANDSHAKE_S = 20.0
_STOPS = b"server shutdown"


class PortTls(NamedTuple):
    """TLS of a port.

    accepts: whether a connection may be used after its handshake.  files: the certificate files of the context.
    """

    context: ssl.SSLContext
    accepts: Callable[[ssl.SSLObject], bool]
    files: TlsFiles


def tls_of(files: TlsFiles) -> PortTls:
    """Return TLS for HTTP/2 that reads changed files again. Raises the errors of `renewing_context`."""

    def accepts(connection: ssl.SSLObject) -> bool:
        return connection.selected_alpn_protocol() == "h2" and not files.outlives_client_ca(connection)

    return PortTls(renewing_context(files, protocols=("h2",)), accepts, files)


class PortListener:
    """Accepts connections, and ends them."""

    def __init__(self) -> None:
        self._sockets: list[tuple[socket.socket, PortTls | None]] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[Http2Connection] = set()
        self._is_draining = False
        self._idle = asyncio.Event()

    def add_socket(self, listening: socket.socket, tls: PortTls | None) -> None:
        """Accept connections of a socket, which is closed with this listener."""
        self._sockets.append((listening, tls))

    async def start(self, owner: Owner) -> None:
        """Accept connections.

        owner: handles their calls; it calls `opened` and `closed`.
        """
        loop = asyncio.get_running_loop()
        for listening, tls in self._sockets:
            make = partial(Http2Connection, owner, None if tls is None else tls.accepts)
            context = None if tls is None else tls.context
            handshake_s = None if context is None else _HANDSHAKE_S
            server = await loop.create_server(
                make, sock=listening, ssl=context, backlog=ACCEPTED_AT_ONCE, ssl_handshake_timeout=handshake_s
            )
            let_wait(server, _BACKLOG)
            self._servers.append(server)

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._connections)

    def opened(self, connection: Http2Connection) -> None:
        """Note a new connection. One whose TLS handshake ends after the drain has begun is drained too."""
        self._connections.add(connection)
        if self._is_draining:
            connection.drain(_STOPS)

    def closed(self, connection: Http2Connection) -> None:
        """Remove a connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    def drain(self) -> None:
        """Accept no connections, and ask clients to leave (GOAWAY)."""
        self._is_draining = True
        for server in self._servers:
            server.close()
        for listening, _ in self._sockets:  # also the sockets of a listener that has not started
            listening.close()
        for connection in list(self._connections):
            connection.drain(_STOPS)

    def close(self) -> None:
        """End all connections now. Their clients may read the last bytes."""
        for connection in list(self._connections):
            connection.close(ErrorCode.NO_ERROR, _STOPS)

    def abort(self) -> None:
        """End all connections without their last bytes."""
        for connection in list(self._connections):
            connection.abort()

    async def wait_idle(self, seconds: float) -> None:
        """Wait until all connections are closed, for `seconds` at most."""
        self._idle.clear()
        if not self._connections:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of a host, all with one port. Raises OSError if it cannot be used."""
    return sockets_of(host, port, _listening)


def sockets_of(host: str, port: int, new: Callable[[int, tuple[Any, ...]], socket.socket]) -> list[socket.socket]:
    """Return a socket for each address of a host, all with one port. Raises OSError if it cannot be used.

    new: returns a socket of a family that is bound to an address.
    """
    sockets: list[socket.socket] = []
    flags = socket.AI_PASSIVE
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if sockets and port == 0:
            port = sockets[0].getsockname()[1]
        try:
            sockets.append(new(family, (address[0], port)))
        except OSError:
            if not sockets:
                raise
    if not sockets:
        raise OSError(f"the host {host!r} has no address to listen on")
    return sockets


def is_dual(family: int, address: tuple[Any, ...]) -> bool:
    """Return whether a socket of an address also accepts connections over IPv4."""
    return family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    dual = is_dual(family, address)
    return socket.create_server(address, family=family, dualstack_ipv6=dual, backlog=_BACKLOG)

"""A port that several front processes share. The kernel divides new connections among their sockets."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from midrib.server._front.listener import is_dual, sockets_of


class SharedPort:
    """A port that is reserved for this server, and does not listen itself.

    Raises OSError if another server has it, with or without SO_REUSEPORT.
    number: the port's number.
    """

    def __init__(self, host: str, port: int) -> None:
        self._reserved = sockets_of(host, port, _reserved)
        self._addresses = [(each.family, each.getsockname()[:2]) for each in self._reserved]
        self.number: int = self._addresses[0][1][1]

    def sockets(self) -> Sequence[socket.socket]:
        """Return a socket for each address, on which one more process may listen."""
        return [_bound(family, address, reuse=socket.SO_REUSEPORT) for family, address in self._addresses]

    def close(self) -> None:
        """Let another server use the port."""
        for each in self._reserved:
            each.close()


def _reserved(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Return a socket of an address that no other socket has.

    Once it is bound, only sockets of this user with SO_REUSEPORT may be bound too. Every other server of this kind
    binds one without it first, which fails.
    """
    reserved = _bound(family, address, reuse=socket.SO_REUSEADDR)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return reserved


def _bound(family: int, address: tuple[Any, ...], *, reuse: int) -> socket.socket:
    """Return a bound socket.

    reuse: SO_REUSEADDR lets it have a port whose last connections have ended a moment ago.
    """
    new = socket.socket(family, socket.SOCK_STREAM)
    try:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        new.setsockopt(socket.SOL_SOCKET, reuse, 1)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_dual(family, address)))
        new.bind(address)
    except OSError:
        new.close()
        raise
    return new

"""A gRPC server on asyncio. It takes services, interceptors and handlers as `grpc.aio.Server` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import grpc

from midrib.server._front.call import ignore_refusal
from midrib.server._front.calls import Calls
from midrib.server._front.connection import Http2Connection
from midrib.server._front.limits import FrontLimits
from midrib.server._front.listener import PortListener, PortTls, listening_sockets
from midrib.server._front.stream import Http2Stream

# Seconds after the grace for the last statuses, and then for the last bytes of connections.
_LAST_S = 0.5


class FrontServer:
    """The server. Its methods are those of `grpc.aio.Server` that Midrib's server calls.

    interceptors: the outermost first.
    refused: called with the reason of each call that a limit or a rule of gRPC ends.
    """

    def __init__(
        self,
        limits: FrontLimits,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        *,
        refused: Callable[[str], None] = ignore_refusal,
    ) -> None:
        self.limits = limits
        self._calls = Calls(limits.max_message_bytes, interceptors, refused=refused)
        self._listener = PortListener()
        self.opened = self._listener.opened
        self.closed = self._listener.closed

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these services."""
        self._calls.add_services(handlers)

    def add_port(self, address: str, tls: PortTls | None = None) -> int:
        """Listen on "host:port"; return the port. Raises OSError if the address cannot be used."""
        host, _, port = address.rpartition(":")
        sockets = listening_sockets(host.strip("[]"), int(port))
        for listening in sockets:
            self._listener.add_socket(listening, tls)
        bound: int = sockets[0].getsockname()[1]
        return bound

    async def start(self) -> None:
        """Accept connections. Calls run in copies of the present context."""
        self._calls.use_present_context()
        await self._listener.start(self)

    async def stop(self, grace: float) -> None:
        """Accept no connections, ask clients to go, and wait for calls for `grace` seconds; then end the rest."""
        self._listener.drain()
        await self._listener.wait_idle(grace)
        self._calls.cancel_all(grpc.StatusCode.UNAVAILABLE, "the server stops: call another one")
        await self._listener.wait_idle(_LAST_S)
        self._listener.close()
        await self._listener.wait_idle(_LAST_S)
        self._listener.abort()
        await self._listener.wait_idle(_LAST_S)

    def start_call(self, connection: Http2Connection, stream: Http2Stream) -> None:
        """Serve the call of a new stream."""
        self._calls.start(stream, connection.peer, connection.call_ended)

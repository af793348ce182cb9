"""A gRPC server on asyncio. It takes services, interceptors and handlers as `grpc.aio.Server` does."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import grpc

from midrib.server._front.call import Call, Requests
from midrib.server._front.connection import Connection
from midrib.server._front.frames import ErrorCode
from midrib.server._front.headers import Metadata
from midrib.server._front.limits import FrontLimits
from midrib.server._front.stream import Stream

logger = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[Any], Any]

_BACKLOG = 4096
_HANDSHAKE_S = 20.0
# Seconds after the grace for the last statuses, and then for the last bytes of connections.
_LAST_S = 0.5


class CallDetails(NamedTuple):
    """The method and the metadata of a call, in place of `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: Metadata


class Tls(NamedTuple):
    """TLS of a port.

    accepts: whether a connection may be used after its handshake.
    """

    context: ssl.SSLContext
    accepts: Callable[[ssl.SSLObject], bool]


class FrontServer:
    """The server. Its methods are those of `grpc.aio.Server` that Midrib's server calls.

    interceptors: the outermost first.
    """

    def __init__(self, limits: FrontLimits, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()) -> None:
        self.limits = limits
        self._services: list[grpc.GenericRpcHandler] = []
        self._sockets: list[tuple[socket.socket, Tls | None]] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._calls: dict[Call, None] = {}
        self._idle = asyncio.Event()
        self._context: contextvars.Context
        self._intercepts = bool(interceptors)
        self._intercepted: Continuation = self._service_handler
        for interceptor in reversed(interceptors):
            self._intercepted = partial(_intercept, interceptor, self._intercepted)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these services."""
        self._services += handlers

    def add_port(self, address: str, tls: Tls | None = None) -> int:
        """Listen on "host:port"; return the port. Raises OSError if the address cannot be used."""
        host, _, port = address.rpartition(":")
        for listening in listening_sockets(host.strip("[]"), int(port)):
            self._sockets.append((listening, tls))
        bound: int = self._sockets[-1][0].getsockname()[1]
        return bound

    async def start(self) -> None:
        """Accept connections. Calls run in copies of the present context."""
        self._context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        for listening, tls in self._sockets:
            make = partial(Connection, self, None if tls is None else tls.accepts)
            context = None if tls is None else tls.context
            handshake_s = None if context is None else _HANDSHAKE_S
            server = await loop.create_server(
                make, sock=listening, ssl=context, backlog=_BACKLOG, ssl_handshake_timeout=handshake_s
            )
            self._servers.append(server)

    async def stop(self, grace: float) -> None:
        """Accept no connections, ask clients to go, and wait for calls for `grace` seconds; then end the rest."""
        for server in self._servers:
            server.close()
        for listening, _ in self._sockets:  # those of a server that has not started too
            listening.close()
        for connection in list(self._connections):
            connection.drain(b"server shutdown")
        await self._wait_idle(grace)
        for call in list(self._calls):
            call.cancel(grpc.StatusCode.UNAVAILABLE, "the server stops: call another one")
        await self._wait_idle(_LAST_S)
        for connection in list(self._connections):
            connection.close(ErrorCode.NO_ERROR, b"server shutdown")
        await self._wait_idle(_LAST_S)
        for connection in list(self._connections):
            connection.abort()
        await self._wait_idle(_LAST_S)

    async def _wait_idle(self, seconds: float) -> None:
        """Wait until all connections are closed, for `seconds` at most."""
        self._idle.clear()
        if not self._connections:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return

    # For connections

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Remove a connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    def start_call(self, connection: Connection, stream: Stream) -> None:
        """Serve the call of a new stream in a task."""
        call = Call(stream, connection.peer, max_message_bytes=self.limits.max_message_bytes)
        self._calls[call] = None
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._serve(call, stream), context=self._context.copy())
        call.started(task)
        task.add_done_callback(partial(self._call_ended, call, connection))

    def _call_ended(self, call: Call, connection: Connection, task: asyncio.Task[None]) -> None:
        del self._calls[call]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a call failed outside its handler", exc_info=error)
        call.ended()
        connection.call_ended()

    # Calls

    async def _serve(self, call: Call, stream: Stream) -> None:
        """Run one call to its status."""
        try:
            await self._run(call, stream)
        except grpc.aio.AbortError:
            pass
        except Exception:
            logger.exception("the handler of %r failed", stream.head.path[:200])
            call.set_code(grpc.StatusCode.UNKNOWN)
            call.set_details("the call failed")
        await call.finish()

    async def _run(self, call: Call, stream: Stream) -> None:
        head = stream.head
        if head.refusal is not None:
            await call.abort(*head.refusal)
        details = CallDetails(head.path, head.metadata)
        handler = await self._intercepted(details) if self._intercepts else self._handler(details)
        if handler is None:
            await call.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        call.parse, call.serialize = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming:
            stream.read_ahead()
            request: Any = Requests(call)
        elif (request := await call.read()) is grpc.aio.EOF:
            await call.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request: send one message")
        behave = _behaviour(handler)
        del handler
        if inspect.isasyncgenfunction(behave):
            async for response in behave(request, call):
                await call.write(response)
            return
        running = behave(request, call)
        del request  # its bytes would stay until the call ends
        response = await running
        if response is not None:
            await call.write(response)

    def _handler(self, details: CallDetails) -> Handler | None:
        for service in self._services:
            handler = service.service(details)  # type: ignore[arg-type] # the same attributes
            if handler is not None:
                return handler
        return None

    async def _service_handler(self, details: CallDetails) -> Handler | None:
        return self._handler(details)


async def _intercept(interceptor: grpc.aio.ServerInterceptor, continuation: Continuation, details: CallDetails) -> Any:
    return await interceptor.intercept_service(continuation, details)  # type: ignore[arg-type] # the same attributes


def _behaviour(handler: Handler) -> Any:
    if handler.request_streaming:
        return handler.stream_stream if handler.response_streaming else handler.stream_unary
    return handler.unary_stream if handler.response_streaming else handler.unary_unary


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of a host, all with one port. Raises OSError if it cannot be used."""
    sockets: list[socket.socket] = []
    flags = socket.AI_PASSIVE
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if sockets and port == 0:
            port = sockets[0].getsockname()[1]
        try:
            sockets.append(_listening(family, (address[0], port)))
        except OSError:
            if not sockets:
                raise
    if not sockets:
        raise OSError(f"the host {host!r} has no address to listen on")
    return sockets


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    dual = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, dualstack_ipv6=dual, backlog=_BACKLOG)

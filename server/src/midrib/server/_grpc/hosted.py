"""The services of a server whose calls another gRPC server accepts, such as that of a Ray Serve replica."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from midrib.server._admission.tokens import AccessTokens
from midrib.server._grpc.context import Context
from midrib.server._grpc.decoding import Handler, parts
from midrib.server._grpc.errors import abort
from midrib.server._grpc.listen import interceptors
from midrib.server._observability.accounting import CURRENT_ACCOUNTING, Accounting
from midrib.server._observability.tracing import Tracing
from midrib.server._settings import Settings
from midrib.wire import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from midrib.server._front.listener import PortTls


class HostedServices:
    """Stands for a gRPC server that listens nowhere: `Server` adds its services, and a host calls `answer`.

    settings, tokens, tracing: as for `grpc_server`.
    """

    def __init__(self, settings: Settings, tokens: AccessTokens | None, tracing: Tracing | None = None) -> None:
        self._interceptors = interceptors(settings, tokens, tracing)
        self._services: list[grpc.GenericRpcHandler] = []
        self._accounting: Accounting | None = None

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Answer the methods of these services."""
        self._services.extend(handlers)

    def add_port(self, address: str, tls: PortTls | None) -> int:  # noqa: ARG002 - the host has the TLS of its port
        """Return the port of the settings, "host:port"; the host listens."""
        return int(address.rpartition(":")[2])

    async def start(self) -> None:
        """Have the calls counted by the server that starts; the host accepts them."""
        self._accounting = CURRENT_ACCOUNTING.get()

    async def stop(self, grace_s: float | None) -> None:
        """Do nothing: the host ends the calls."""

    async def answer(self, method: str, context: Any) -> None:
        """Serve one call to its end.

        method: its path, "/package.Service/Method".
        context: the context of a handler that reads and writes raw bytes. Raises AbortError if the
        call ends with a status other than OK.
        """
        CURRENT_ACCOUNTING.set(self._accounting)
        details = _Details(method, tuple(context.invocation_metadata() or ()))
        handler = await self._handler(details)
        if handler is None:
            await abort(context, UnsupportedError(f"{method} is not served here: see BackboneService and Health"))
        else:
            await _run(handler, _HostedCall(context, handler))

    async def _handler(self, details: _Details) -> Handler | None:
        find: Callable[[Any], Awaitable[Any]] = self._find
        for interceptor in reversed(self._interceptors):
            find = partial(interceptor.intercept_service, find)
        handler: Handler | None = await find(details)
        return handler

    async def _find(self, details: _Details) -> Handler | None:
        handlers = (service.service(details) for service in self._services)
        return next((handler for handler in handlers if handler is not None), None)


@dataclass
class _Details:
    """The headers of a call."""

    method: str
    invocation_metadata: Any


class _HostedCall:
    """The context of a raw call, for a handler that reads and writes messages."""

    def __init__(self, context: Context, handler: Handler) -> None:
        self._context = context
        self._parse: Any = handler.request_deserializer or bytes
        self._serialize: Any = handler.response_serializer or bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """Return the next message, or gRPC's EOF."""
        data: Any = await self._context.read()
        return data if data is grpc.aio.EOF else self._parse(data)

    async def write(self, message: Any) -> None:
        """Send a message."""
        await self._context.write(self._serialize(message))

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call a function with this object when the call ends."""
        context: Any = self._context
        context.add_done_callback(lambda _context: callback(self))


async def _run(handler: Handler, call: Any) -> None:
    _, behaviour = parts(handler)
    request = None  # streams are read by the context
    if not handler.request_streaming:
        request = await call.read()
        if request is grpc.aio.EOF:
            await abort(call, InvalidInputError("the call ended without a request: send one message"))
    if inspect.isasyncgenfunction(behaviour):
        async for response in behaviour(request, call):
            await call.write(response)
        return
    response = await behaviour(request, call)
    if response is not None:
        await call.write(response)

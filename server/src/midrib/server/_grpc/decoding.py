"""Bytes that are no message: refused as INVALID_ARGUMENT, where gRPC would answer UNKNOWN with a parser's exception."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from midrib.server._grpc.errors import Context, abort
from midrib.wire import InvalidInputError

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Codec: TypeAlias = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]

# Stands for a message that could not be read: gRPC parses before our code runs, and has no status for a failure there.
_MALFORMED: Any = object()


class DecodingServer:
    """Takes services for a server, as the generated `add_..._to_server` hand them over.

    codecs: by a method's path, what reads its requests and writes its responses in place of protobuf's library.
    """

    def __init__(self, server: grpc.aio.Server, codecs: Mapping[str, Codec] = MappingProxyType({})) -> None:
        self._server = server
        self._codecs = codecs

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these services."""
        self._server.add_generic_rpc_handlers([_CarefulService(handler, self._codecs) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Serve these methods of a service."""
        careful = {
            name: _careful(handler, self._codecs.get(f"/{service}/{name}")) for name, handler in handlers.items()
        }
        self._server.add_registered_method_handlers(service, careful)


class _CarefulService(grpc.GenericRpcHandler):
    """A service whose methods are careful."""

    def __init__(self, service: grpc.GenericRpcHandler, codecs: Mapping[str, Codec]) -> None:
        self._service = service
        self._codecs = codecs
        self._methods: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """gRPC's hook: the handler of a method, None where it is not of this service."""
        method = handler_call_details.method
        if method not in self._methods:
            handler = self._service.service(handler_call_details)
            if handler is None:  # not kept: a client may ask for any name
                return None
            self._methods[method] = _careful(handler, self._codecs.get(method))
        return self._methods[method]


def _careful(handler: Handler, codec: Codec | None) -> Handler:
    make, behaviour = parts(handler)
    read, write = codec or (handler.request_deserializer, handler.response_serializer)
    if inspect.isasyncgenfunction(behaviour):
        guarded = _generator(behaviour, streams=handler.request_streaming)
    else:
        guarded = _coroutine(behaviour, streams=handler.request_streaming)
    return make(
        guarded,
        request_deserializer=_tolerant(read),
        response_serializer=write,
    )


def parts(handler: Handler) -> tuple[Callable[..., Handler], Any]:
    """How to make another handler of the same kind, and what the handler does."""
    kinds: dict[tuple[bool, bool], tuple[Callable[..., Handler], Any]] = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    return kinds[bool(handler.request_streaming), bool(handler.response_streaming)]


def _tolerant(read: Any) -> Callable[[bytes], Any]:
    def tolerant(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return _MALFORMED

    return tolerant


def _coroutine(behaviour: Any, *, streams: bool) -> Any:
    async def guarded(request: Any, context: Context) -> Any:
        try:
            return await behaviour(_checked(request, context, streams=streams), context)
        except _MalformedError as error:
            await abort(context, error)

    return guarded


def _generator(behaviour: Any, *, streams: bool) -> Any:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(_checked(request, context, streams=streams), context):
                yield response
        except _MalformedError as error:
            await abort(context, error)

    return guarded


def _checked(request: Any, context: Context, *, streams: bool) -> Any:
    if streams:
        return _Messages(context)
    if request is _MALFORMED:
        raise _MalformedError
    return request


class _MalformedError(InvalidInputError):
    """What was sent is no message of the call."""

    def __init__(self) -> None:
        super().__init__("the bytes sent are no message of this call: build the client from this server's protos")


class _Messages:
    """The messages of a stream, up to the first that is none.

    gRPC's own iterator keeps each until the next has come, however long a client is silent.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        if message is _MALFORMED:
            raise _MalformedError
        return message

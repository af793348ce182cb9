"""Reads the requests of every method, and turns the errors of every method into statuses.

Elements are counted before a message is parsed, and large messages are parsed in a thread. Bytes that cannot be parsed
are refused as INVALID_ARGUMENT; gRPC would answer UNKNOWN with a parser's exception.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from midrib.server._admission.element_count import ElementLimits, check_elements
from midrib.server._admission.receiving import CURRENT_RECEIVER, ReceiveLimits
from midrib.server._grpc.context import Context
from midrib.server._grpc.errors import abort
from midrib.server._grpc.receiving import Messages, ReceiveGate
from midrib.server._grpc.unread import SMALL_ANSWER_BYTES, UnreadCalls
from midrib.server._intake.large_messages import LARGE_MESSAGE_BYTES
from midrib.server._large import Buffer
from midrib.wire import InvalidInputError, LimitExceededError, MidribError

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Larger messages are parsed in a thread: this many bytes take at most a few milliseconds of the event loop.
_SMALL_BYTES = 8192


class Codec(NamedTuple):
    """Reads the requests and writes the responses of one method.

    request: the class of the requests.
    fast: reads the usual request in microseconds, at any size; raises IndexError or ValueError for others.
    read: reads every request. Raises DecodeError.
    write: returns the bytes of a response.
    large: reads a request of more than LARGE_MESSAGE_BYTES without copying its data; None if there are none. Raises
    DecodeError, and MidribError for one that it refuses.
    """

    request: type[Message]
    fast: Callable[[Buffer], Any]
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    large: Callable[[memoryview], Any] | None = None

    def parse(self, data: bytes) -> Any:
        """Return the request by the fast reader, or by the library if that declines. Raises DecodeError."""
        try:
            return self.fast(data)
        except (IndexError, ValueError):
            return self.read(data)


@dataclass(frozen=True)
class RequestLimits:
    """The size of requests.

    elements: the number of elements in one message.
    small_bytes: the size of a request to a method without data: lists, health, loading.
    data_methods: paths of the methods whose requests may be larger.
    max_unread_s: how long an answer may wait to be read before its connection is closed.
    has_tokens: whether tokens distinguish the callers.
    """

    elements: ElementLimits
    small_bytes: int
    data_methods: frozenset[str]
    max_unread_s: float
    has_tokens: bool


class _Refused(NamedTuple):
    """The placeholder of a refused message: gRPC parses before our code runs, and has no status for a failure there."""

    error: MidribError


class _Unparsed(NamedTuple):
    """A message that is to be parsed in a thread."""

    parse: Callable[[], Any]


_PENDING = _Refused, _Unparsed


class HandlerTable(Protocol):
    """A server that takes services."""

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these services."""


class DecodingServer:
    """Stands for a server in the generated `add_..._to_server`, and wraps the methods of the services.

    codecs: the fast codecs, by the method's path; protobuf's library reads and writes the messages of other methods.
    """

    def __init__(
        self, server: HandlerTable, limits: RequestLimits, codecs: Mapping[str, Codec] = MappingProxyType({})
    ) -> None:
        self._server = server
        self._reading = _Reading(limits, codecs, UnreadCalls(limits.max_unread_s))
        self._gate = ReceiveGate(ReceiveLimits(has_tokens=limits.has_tokens))

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these services."""
        services = [_CarefulService(handler, self._reading, self._gate) for handler in handlers]
        self._server.add_generic_rpc_handlers(services)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Do nothing: `add_generic_rpc_handlers` has the same methods.

        gRPC waits for the next call of each registered method with a task, and sets all of them up again for each call.
        """


class _CarefulService(grpc.GenericRpcHandler):
    """A service whose methods are wrapped."""

    def __init__(self, service: grpc.GenericRpcHandler, reading: _Reading, gate: ReceiveGate) -> None:
        self._service = service
        self._reading = reading
        self._gate = gate
        self._methods: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a method, or None if it is not of this service. gRPC calls this for each call."""
        method = handler_call_details.method
        if method not in self._methods:
            handler = self._service.service(handler_call_details)
            if handler is None:  # not remembered: a client may send any name
                return None
            self._methods[method] = _careful(handler, self._reading, method)
        return self._gate.handler(self._methods[method])


@dataclass(frozen=True)
class _Reading:
    """Reads the requests of every method.

    unread: the calls whose answers wait to be read.
    """

    limits: RequestLimits
    codecs: Mapping[str, Codec]
    unread: UnreadCalls

    def codec(self, method: str, handler: Handler) -> Codec:
        """Return the codec of a method; the parser of protobuf's library by default."""
        parser: Any = handler.request_deserializer
        write: Any = handler.response_serializer
        return self.codecs.get(method) or Codec(parser.__self__, never_fast, parser, write)

    def reader(self, method: str, codec: Codec) -> Callable[[Buffer], Any]:
        """Return the function that gRPC calls on the event loop with the bytes of each message."""
        limits = self.limits
        max_bytes = None if method in limits.data_methods else limits.small_bytes

        def read(data: Buffer) -> Any:
            if max_bytes is not None and len(data) > max_bytes:
                return _Refused(_too_large(method, len(data), max_bytes))
            try:
                return codec.fast(data)
            except (IndexError, ValueError):
                parse = partial(_parse, data, codec, limits.elements)
                return parse() if len(data) <= _SMALL_BYTES else _Unparsed(parse)
            except DecodeError:
                return _Refused(_malformed())

        return read


def never_fast(data: Buffer) -> Any:
    """Raise ValueError: all requests are read by the library."""
    raise ValueError(f"{len(data)} bytes for the parser of protobuf's library")


def _parse(data: Buffer, codec: Codec, limits: ElementLimits) -> Any:
    """Return the message, or a _Refused with the reason."""
    try:
        check_elements(data, cast(Descriptor, codec.request.DESCRIPTOR), limits)
        if codec.large is not None and len(data) > LARGE_MESSAGE_BYTES:
            return codec.large(memoryview(data))
        return codec.read(bytes(data))
    except MidribError as error:
        return _Refused(error)
    except DecodeError:
        return _Refused(_malformed())


def _too_large(method: str, size: int, limit: int) -> LimitExceededError:
    return LimitExceededError(f"a request to {method} has {size} bytes, at most {limit} are accepted: shorten it")


def _malformed() -> InvalidInputError:
    return InvalidInputError("could not parse the request: generate the client from this server's .proto files")


def _careful(handler: Handler, reading: _Reading, method: str) -> Handler:
    make, behaviour = parts(handler)
    codec = reading.codec(method, handler)
    if inspect.isasyncgenfunction(behaviour):
        guarded = _generator(behaviour, reading.unread, streams=handler.request_streaming)
    else:
        guarded = _coroutine(behaviour, reading.unread, streams=handler.request_streaming)
    read = reading.reader(method, codec)
    if handler.request_streaming:
        return make(guarded, request_deserializer=partial(_sized, read), response_serializer=codec.write)
    return make(guarded, request_deserializer=read, response_serializer=codec.write)


def _sized(read: Callable[[Buffer], Any], data: Buffer) -> tuple[int, Any]:
    """Return the size of a stream's message, and the message."""
    return len(data), read(data)


def parts(handler: Handler) -> tuple[Callable[..., Handler], Any]:
    """Return the function that makes a handler of the same kind, and the behaviour of the handler."""
    kinds: dict[tuple[bool, bool], tuple[Callable[..., Handler], Any]] = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    return kinds[bool(handler.request_streaming), bool(handler.response_streaming)]


def _coroutine(behaviour: Any, unread: UnreadCalls, *, streams: bool) -> Any:
    async def guarded(request: Any, context: Context) -> Any:
        messages = Messages(context, _parsed) if streams else None
        try:
            if messages is None:  # the bytes of an unparsed request would stay until the call ends
                request = await _parsed(request) if isinstance(request, _PENDING) else request
                _note_received()
            responding = behaviour(request if messages is None else messages, context)
            del request  # gRPC keeps the frames of a refused call, with their variables
            response = await responding
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the outer boundary: every error becomes a status
            unread.watch(context)
            await abort(context, error)
        finally:
            if messages is not None:
                messages.close()
        if not isinstance(response, bytes) or len(response) > SMALL_ANSWER_BYTES:
            unread.watch(context)
        return response

    return guarded


def _generator(behaviour: Any, unread: UnreadCalls, *, streams: bool) -> Any:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        messages = Messages(context, _parsed) if streams else None
        try:
            if messages is None:
                request = await _parsed(request) if isinstance(request, _PENDING) else request
                _note_received()
            responses = behaviour(request if messages is None else messages, context)
            del request  # as above
            async for response in responses:
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the outer boundary: every error becomes a status
            unread.watch(context)
            await abort(context, error)
        finally:
            if messages is not None:
                messages.close()

    return guarded


def _note_received() -> None:
    """Let others be received: the request of this call is complete."""
    receiver = CURRENT_RECEIVER.get()
    if receiver is not None:
        receiver.received()


async def _parsed(message: Any) -> Any:
    """Return a message in its parsed form. Raises InvalidInputError or LimitExceededError if it is refused."""
    if isinstance(message, _Unparsed):
        message = await asyncio.to_thread(message.parse)
    if isinstance(message, _Refused):
        raise message.error
    return message

"""The calls of a server: each finds its handler, and runs to its status."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import grpc

from midrib.server._front.call import CallContext, CallStream, Requests, ignore_refusal
from midrib.server._front.headers import Metadata

logger = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[Any], Any]


class CallDetails(NamedTuple):
    """The method and the metadata of a call, in place of `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: Metadata


class Calls:
    """Serves calls by the handlers of services.

    max_message_bytes: the largest answer.  interceptors: the outermost first.
    refused: called with the reason of each call that a limit or a rule of gRPC ends.
    """

    def __init__(
        self,
        max_message_bytes: int,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        *,
        refused: Callable[[str], None] = ignore_refusal,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._refused = refused
        self._services: list[grpc.GenericRpcHandler] = []
        self._running: dict[CallContext, None] = {}
        self._context: contextvars.Context
        self._intercepts = bool(interceptors)
        self._intercepted: Continuation = self._service_handler
        for interceptor in reversed(interceptors):
            self._intercepted = partial(_intercept, interceptor, self._intercepted)

    def add_services(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of these services."""
        self._services += handlers

    def use_present_context(self) -> None:
        """Run each later call in a copy of the present context."""
        self._context = contextvars.copy_context()

    def start(self, stream: CallStream, peer: str, ended: Callable[[], None]) -> None:
        """Serve the call of a new stream in a task.

        peer: gRPC's name of the client's address.  ended: called once the handler has ended.
        """
        call = CallContext(stream, peer, max_message_bytes=self._max_message_bytes, refused=self._refused)
        self._running[call] = None
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._serve(call, stream), context=self._context.copy())
        call.started(task)
        task.add_done_callback(partial(self._ended, call, ended))

    def cancel_all(self, code: grpc.StatusCode, details: str) -> None:
        """End all calls with a status."""
        for call in list(self._running):
            call.cancel(code, details)

    def _ended(self, call: CallContext, ended: Callable[[], None], task: asyncio.Task[None]) -> None:
        del self._running[call]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a call failed outside its handler", exc_info=error)
        call.ended()
        ended()

    async def _serve(self, call: CallContext, stream: CallStream) -> None:
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

    async def _run(self, call: CallContext, stream: CallStream) -> None:
        head = stream.head
        if head.refusal is not None:
            await call.refuse(*head.refusal)
        details = CallDetails(head.path, head.metadata)
        handler = await self._intercepted(details) if self._intercepts else self._handler(details)
        if handler is None:
            await call.refuse(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        call.parse, call.serialize = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming:
            stream.read_ahead()
            request: Any = Requests(call)
        elif (request := await call.read()) is grpc.aio.EOF:
            await call.refuse(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request: send one message")
        behave, is_streaming = _behaviour(handler), handler.response_streaming
        del handler
        if is_streaming and inspect.isasyncgenfunction(behave):
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

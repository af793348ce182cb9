"""A span around every gRPC call. Imported only if traces are configured."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
from opentelemetry.trace import Span, Status, StatusCode

from midrib.server._grpc.context import Context
from midrib.server._grpc.decoding import parts
from midrib.server._observability.tracing import Tracing

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class TracingInterceptor(grpc.aio.ServerInterceptor):
    """A span around every call."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Handler | None:
        """Return the handler of a call, with a span around it."""
        handler: Handler | None = await continuation(handler_call_details)
        if handler is None:
            return None
        make, behaviour = parts(handler)
        traced = self._generator if inspect.isasyncgenfunction(behaviour) else self._coroutine
        metadata = dict(handler_call_details.invocation_metadata)
        return make(
            traced(behaviour, handler_call_details.method, metadata),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _coroutine(self, behaviour: Any, method: str, metadata: Mapping[str, Any]) -> Any:
        async def traced(request: Any, context: Context) -> Any:
            responding = behaviour(request, context)
            del request  # gRPC keeps the frames of a refused call, with their variables
            with self._tracing.call(method, metadata) as span, _status(span, context):
                return await responding

        return traced

    def _generator(self, behaviour: Any, method: str, metadata: Mapping[str, Any]) -> Any:
        async def traced(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._tracing.call(method, metadata) as span, _status(span, context):
                async for response in behaviour(request, context):
                    yield response

        return traced


@contextmanager
def _status(span: Span, context: Context) -> Iterator[None]:
    """Set the status of the span from that of the call, once it has ended."""
    try:
        yield
    except BaseException as error:
        span.set_status(Status(StatusCode.ERROR, context.details() or type(error).__name__))
        raise
    finally:
        code = context.code()
        value = getattr(code, "value", (0,))[0] if code else 0
        span.set_attribute("rpc.grpc.status_code", value)

"""One line of the log for each gRPC call, like that of each HTTP request. Imported only if access_log is set."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
from google.rpc import status_pb2

from midrib.server._admission.tokens import CURRENT_TENANT
from midrib.server._grpc.context import Context
from midrib.server._grpc.decoding import parts
from midrib.wire import status_to_error

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

logger = logging.getLogger(__name__)
# The command logs warnings and worse; nothing is logged here unless access_log is set.
logger.setLevel(logging.INFO)

_LONGEST_METHOD = 200


class AccessLogInterceptor(grpc.aio.ServerInterceptor):
    """Logs every call once its answer is sent: a line, and in JSON its parts as fields.

    Metadata are not logged: they may hold a token.
    """

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Handler | None:
        """Return the handler of a call, or None for an unknown method, which is not logged."""
        call = _LoggedCall(handler_call_details.method)
        handler: Handler | None = await continuation(handler_call_details)
        if handler is None:
            return None
        make, behaviour = parts(handler)
        logged = _generator if inspect.isasyncgenfunction(behaviour) else _coroutine
        return make(
            logged(behaviour, call),
            request_deserializer=handler.request_deserializer,
            response_serializer=_counting(handler.response_serializer),
        )


class _LoggedCall:
    """One call, from its headers to the end of its answer."""

    def __init__(self, method: str) -> None:
        self._method = method[:_LONGEST_METHOD]
        self._started = time.monotonic()
        self._token = ""
        self._peer = ""
        self.answered = False
        self.sent_bytes = 0

    def watch(self, context: Context) -> None:
        """Log the call when it ends, also if its client leaves it."""
        _CURRENT.set(self)
        tenant = CURRENT_TENANT.get()
        self._token = "" if tenant is None else tenant.name
        self._peer = context.peer()
        context.add_done_callback(self._ended)

    def _ended(self, context: Context) -> None:
        seconds = time.monotonic() - self._started
        code: Any = context.code()
        # A client that leaves its call ends it without a status, while its method still runs.
        status = _NAMES[code] if code else "OK" if self.answered else "CANCELLED"
        fields = {
            "method": self._method,
            "status": status,
            "reason": _reason(context),
            "seconds": round(seconds, 6),
            "bytes": self.sent_bytes,
            "token": self._token,
            "peer": self._peer,
        }
        logger.info("%r %s %.1f ms", self._method, status, seconds * 1e3, extra=fields)


_NAMES: dict[Any, str] = {code: code.name for code in grpc.StatusCode} | {
    code.value[0]: code.name for code in grpc.StatusCode
}
_CURRENT: ContextVar[_LoggedCall | None] = ContextVar("midrib_logged_call", default=None)


def _coroutine(behaviour: Any, call: _LoggedCall) -> Any:
    async def logged(request: Any, context: Context) -> Any:
        call.watch(context)
        responding = behaviour(request, context)
        del request  # gRPC keeps the frames of a refused call, with their variables
        response = await responding
        call.answered = True
        return response

    return logged


def _generator(behaviour: Any, call: _LoggedCall) -> Any:
    async def logged(request: Any, context: Context) -> AsyncIterator[Any]:
        call.watch(context)
        async for response in behaviour(request, context):
            yield response
        call.answered = True

    return logged


def _counting(write: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Return a serializer that adds the bytes of each response to its call. gRPC calls it in a task of the call."""

    def counting(response: Any) -> bytes:
        data = response if write is None else write(response)
        if (call := _CURRENT.get()) is not None:
            call.sent_bytes += len(data)
        return data

    return counting


def _reason(context: Context) -> str:
    """Return the reason of a refused call, from the details of its status; "" for any other call."""
    for name, value in context.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            return status_to_error(status_pb2.Status.FromString(value)).reason
    return ""

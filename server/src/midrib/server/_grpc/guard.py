"""Who makes a gRPC call, and whether it may: every call passes here first."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeAlias

import grpc

from midrib.server._admission.tokens import CURRENT_TENANT, AccessTokens, Scope
from midrib.server._calls.requests import Caller
from midrib.server._engine.item import Priority
from midrib.server._grpc.context import Context
from midrib.server._grpc.errors import abort
from midrib.v1 import embedding_pb2
from midrib.wire import MidribError

EMBEDDING_METHODS = frozenset(
    {
        "/midrib.v1.EmbeddingService/Embed",
        "/midrib.v1.EmbeddingService/EmbedStream",
        "/midrib.v1.EmbeddingService/Backward",
        "/inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/ModelStreamInfer",
    }
)
_ADMIN = {
    "/midrib.v1.BackboneService/LoadBackbone",
    "/midrib.v1.BackboneService/UnloadBackbone",
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
}
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_HEALTH = "/grpc.health.v1.Health/"
_PRIORITIES: dict[int, Priority] = {
    embedding_pb2.PRIORITY_TRAINING: Priority.TRAINING,
    embedding_pb2.PRIORITY_BULK: Priority.BULK,
}


class Guard(grpc.aio.ServerInterceptor):
    """Refuses calls without the token and the scope that they need, and sets the tenant of all others.

    public_health: whether health is answered without a token, for load balancers.
    """

    def __init__(self, tokens: AccessTokens, *, public_health: bool) -> None:
        self._tokens = tokens
        self._public_health = public_health

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the handler of a call, or one that refuses the call."""
        method = handler_call_details.method
        if self._public_health and method.startswith(_HEALTH):
            return await continuation(handler_call_details)
        headers = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        try:
            tenant = self._tokens.tenant(headers, scope_of(method))
        except MidribError as error:
            return _refusing(error)
        CURRENT_TENANT.set(tenant)
        return await continuation(handler_call_details)


def scope_of(method: str) -> Scope:
    """Return the scope that a method needs: to read, for any other method."""
    if method in _ADMIN:
        return Scope.ADMIN
    return Scope.EMBED if method in EMBEDDING_METHODS else Scope.READ


def _refusing(error: MidribError) -> Handler:
    """Return a handler that refuses before the request is received: a unary one would receive it first."""

    async def refuse(_requests: Any, context: Context) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def priority_of(priority: embedding_pb2.Priority) -> Priority:
    """Return the share of a busy device that a request asks for; interactive by default."""
    return _PRIORITIES.get(priority, Priority.INTERACTIVE)


def caller_of(
    context: Context,
    *,
    flow: Hashable = None,
    priority: embedding_pb2.Priority = embedding_pb2.PRIORITY_UNSPECIFIED,
) -> Caller:
    """Return the caller of a gRPC call, with the call's deadline.

    flow: the key for fair queueing on a server without tokens, by default the connection. All calls of a token are one
    flow.
    """
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    tenant = CURRENT_TENANT.get()
    if tenant is not None:
        flow = tenant.name
    return Caller(flow if flow is not None else context.peer(), deadline, priority=priority_of(priority), tenant=tenant)

"""Every gRPC call passes here first: who calls, and may they."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from midrib.server._admission.tokens import CURRENT_TENANT, Scope, Tokens
from midrib.server._grpc.errors import Context, abort
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


class Guard(grpc.aio.ServerInterceptor):
    """Refuses calls without the token and the scope that they need; the rest know their tenant.

    public_health: health is answered to anybody, as load balancers without a token want it.
    """

    def __init__(self, tokens: Tokens, *, public_health: bool) -> None:
        self._tokens = tokens
        self._public_health = public_health

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Handler | None:
        """gRPC's hook: the method's own handler, or one that refuses in its place."""
        handler: Handler | None = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or (self._public_health and method.startswith(_HEALTH)):
            return handler
        shown = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        try:
            tenant = self._tokens.tenant(shown, scope_of(method))
        except MidribError as error:
            return _refusing(error)
        CURRENT_TENANT.set(tenant)
        return handler


def scope_of(method: str) -> Scope:
    """The scope that a method needs; one that is not known here only reads."""
    if method in _ADMIN:
        return Scope.ADMIN
    return Scope.EMBED if method in EMBEDDING_METHODS else Scope.READ


def _refusing(error: MidribError) -> Handler:
    """Return a handler that refuses before the request is received: a unary one would receive it first."""

    async def refuse(_requests: Any, context: Context) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)

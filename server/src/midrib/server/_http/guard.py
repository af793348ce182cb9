"""Every HTTP request passes here first: who calls, and may they."""

from __future__ import annotations

from aiohttp import web

from midrib.server._admission.tokens import CURRENT_TENANT, Scope, Tokens
from midrib.server._http.errors import Handler

_HEALTH = ("/healthz", "/readyz")
_EMBEDDING = "/v1/embeddings"


class HttpGuard:
    """Refuses requests without the token and the scope that they need.

    tokens: None where the server asks for none.  public_health: health is answered to anybody.
    """

    def __init__(self, tokens: Tokens | None, *, public_health: bool) -> None:
        self._tokens = tokens
        self._public_health = public_health

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request pass, with its tenant; raises UnauthenticatedError or PermissionDeniedError."""
        tenant = None
        if self._tokens is not None and not (self._public_health and request.path in _HEALTH):
            scope = Scope.EMBED if request.path == _EMBEDDING else Scope.READ
            tenant = self._tokens.tenant(request.headers.getall("Authorization", []), scope)
        # A connection's requests share one context: the next one is not this tenant's.
        before = CURRENT_TENANT.set(tenant)
        try:
            return await handler(request)
        finally:
            CURRENT_TENANT.reset(before)

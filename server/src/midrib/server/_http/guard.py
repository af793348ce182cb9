"""The check of every HTTP request: its token, and the rights of the token."""

from __future__ import annotations

from aiohttp import web

from midrib.server._admission.tls import TlsFiles
from midrib.server._admission.tokens import CURRENT_TENANT, AccessTokens, Scope
from midrib.server._http.errors import Handler
from midrib.wire import UnauthenticatedError

_INFER = "/v2/models/{name}/infer"
_HEALTH = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
_CONNECT_EMBED = "/midrib.v1.EmbeddingService/Embed"
_EMBEDDING = ("/v1/embeddings", "/similarity", "/console/api/map", _INFER, _CONNECT_EMBED)
_ADMIN = ("/console/api/load", "/console/api/unload")
# Pages without data, for browsers, which send no token: the console's page asks for one, /docs is the same everywhere.
_PAGES = ("/console", "/console/", "/console/files/{name}", "/docs")


class HttpGuard:
    """Refuses requests without the token and the scope that they need.

    tokens: None if the server needs none.  public_health: whether health is answered without a token.
    tls: the certificate files of the port; None without TLS.
    """

    def __init__(self, tokens: AccessTokens | None, *, public_health: bool, tls: TlsFiles | None = None) -> None:
        self._tokens = tokens
        self._public_health = public_health
        self._tls = tls

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request as its tenant; raises UnauthenticatedError or PermissionDeniedError."""
        self._check_session(request)
        tenant = None
        # Check the route, because one path can be written in several forms.
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical
        if self._tokens is not None and not self._is_public(path):
            tenant = self._tokens.tenant(request.headers.getall("Authorization", []), _scope(path))
        # All requests of a connection share one context, and the next may carry another token.
        before = CURRENT_TENANT.set(tenant)
        try:
            return await handler(request)
        finally:
            CURRENT_TENANT.reset(before)

    def _is_public(self, path: str) -> bool:
        return path in _PAGES or (self._public_health and path in _HEALTH)

    def _check_session(self, request: web.Request) -> None:
        """Abort a connection whose client was verified by a replaced client CA, and raise UnauthenticatedError."""
        transport = request.transport
        connection = transport and transport.get_extra_info("ssl_object")
        if transport and connection and self._tls and self._tls.outlives_client_ca(connection):
            transport.abort()
            raise UnauthenticatedError("the TLS session is older than the client CA in use: connect again")


def _scope(path: str) -> Scope:
    """Return the scope that a route needs; READ for a path that does not exist.  path: the pattern of the route."""
    if path in _ADMIN:
        return Scope.ADMIN
    return Scope.EMBED if path in _EMBEDDING else Scope.READ

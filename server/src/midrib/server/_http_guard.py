"""Every HTTP request passes here first: who calls, and may they; and TLS for the port."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from aiohttp import web

from midrib.server._http_errors import Handler
from midrib.server._tokens import CURRENT_TENANT, Scope, Tokens

logger = logging.getLogger(__name__)

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


class HttpTls:
    """TLS whose files are read again whenever one of them has changed, at the next handshake.

    certificate: PEM, the chain.  key: PEM.  client_ca: PEM; where given, clients must show a certificate that it
    signed. Raises FileNotFoundError for a missing file.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._seen = self._changes()
        self._current = self._read()
        self.context = self._read()
        self.context.sni_callback = self._renew

    def _renew(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Python's hook, at each handshake: the way to change the certificate of a port that listens."""
        try:
            now = self._changes()
            if now != self._seen:
                self._current, self._seen = self._read(), now
        except OSError:  # a broken certificate is an SSLError, which is one
            logger.exception("the TLS files cannot be read: the certificate in use stays")
        connection.context = self._current

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._certificate, self._key)
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._client_ca)
        return context

    def _changes(self) -> list[tuple[int, int]]:
        files = [file for file in (self._certificate, self._key, self._client_ca) if file is not None]
        return [(status.st_mtime_ns, status.st_size) for status in (file.stat() for file in files)]

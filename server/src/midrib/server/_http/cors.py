"""Cross-origin requests of web pages, for the origins that the settings name.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from midrib.server._http.errors import Handler

_MAX_AGE_S = "600"
_ALLOWED_HEADERS = "Authorization, Connect-Protocol-Version, Connect-Timeout-Ms, Content-Type, X-Request-Timeout"
_EXPOSED_HEADERS = "Midrib-Revision, Retry-After"


class Cors:
    """Lets pages of some origins read the answers.  origins: "*" is any origin."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    @web.middleware
    async def allow(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer preflight requests of allowed origins, which carry no token, and mark other answers for them."""
        response: web.StreamResponse
        origin = request.headers.get("Origin", "")
        if not origin or not self._origins & {origin, "*"}:
            response = await handler(request)
            if self._origins:
                response.headers["Vary"] = "Origin"  # a cache must not give this answer to a page that may read it
            return response
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response = web.Response(status=204)
            response.headers["Access-Control-Allow-Methods"] = "GET, POST"
            response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            response.headers["Access-Control-Max-Age"] = _MAX_AGE_S
        else:
            response = await handler(request)
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Vary"] = "Origin"
        return response

"""The paths of the console, and the answer of each."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable

from aiohttp import web

from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._console.backbones import Changes, LoadBody, UnloadBody
from midrib.server._console.events import Events
from midrib.server._console.files import Files, redirect
from midrib.server._console.maps import MAX_FILE_BYTES, Maps
from midrib.server._console.projection import METHODS
from midrib.server._console.table import KINDS
from midrib.server._http.call import CURRENT_CALL
from midrib.server._http.openapi import Operation, server_version
from midrib.server._settings import Settings, is_loopback
from midrib.wire import PermissionDeniedError

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPERATIONS = (
    Operation("get", "/console/", "Return the console, pages for people.", "The page.", media="text/html"),
    Operation("get", "/console/api/session", "Show the rights of the token.", "Its name and scopes."),
    Operation("get", "/console/api/events", "Stream the load.", "Events of JSON.", media="text/event-stream"),
    Operation("get", "/console/api/registered", "List the names that can be loaded.", "Names and arguments."),
    Operation("post", "/console/api/load", "Load a backbone, or plan to.", "The backbone.", LoadBody),
    Operation("post", "/console/api/unload", "Unload a backbone.", "Its name.", UnloadBody),
    Operation(
        "post",
        "/console/api/map",
        "Draw an embedding file.",
        "Points and columns.",
        query={"kind": KINDS, "method": METHODS},
    ),
)


def console_routes(embedder: RequestEmbedder) -> list[web.RouteDef]:
    """Return every method and path of the console, with its handler."""
    settings = embedder.catalogue.settings
    pages, changes, events, maps = Files(), Changes(embedder), Events(embedder), Maps(settings)

    def api(handler: _Handler) -> _Handler:
        return _from_here(settings, handler)

    return [
        web.get("/console", redirect),
        web.get("/console/", pages.page),
        web.get("/console/files/{name:.+}", pages.file),
        web.get("/console/api/session", api(TokenRights(settings).answer)),
        # Not HEAD, whose answer has no body: the events would be read as the answer of the next request.
        web.get("/console/api/events", api(events.stream), allow_head=False),
        web.get("/console/api/registered", api(changes.registered)),
        web.post("/console/api/load", api(changes.load)),
        web.post("/console/api/unload", api(changes.unload)),
        web.post("/console/api/map", api(maps.draw)),
    ]


class TokenRights:
    """Shows the page the rights of its token."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def answer(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer the name and the scopes of the token, and the features of the server."""
        tenant = CURRENT_CALL.get().caller.tenant
        scopes = ["admin", "embed", "read"] if tenant is None else sorted(scope.value for scope in tenant.scopes)
        return web.json_response(
            {
                "version": server_version(),
                "token": None if tenant is None else tenant.name,
                "scopes": scopes,
                "may_change": self._settings.admin and "admin" in scopes,
                "umap": importlib.util.find_spec("umap") is not None,
                "max_map_bytes": min(MAX_FILE_BYTES, self._settings.max_in_flight_bytes),
            }
        )


def _from_here(settings: Settings, handler: _Handler) -> _Handler:
    """Return a handler that refuses foreign host names on a loopback address without tokens.

    A web page can make its own name mean 127.0.0.1 (DNS rebinding), and its scripts then reach the server as if they
    came from it.
    """
    if settings.tokens is not None or not is_loopback(settings.host):
        return handler

    async def check(request: web.Request) -> web.StreamResponse:
        """Answer a request that names this machine. Raises PermissionDeniedError for any other host name."""
        host = request.host.rpartition(":")[0] if not request.host.endswith("]") else request.host
        if not is_loopback(host or request.host):
            raise PermissionDeniedError(
                f"the header Host is {request.host[:100]!r}, and without tokens the console answers only localhost, "
                "127.0.0.1 and [::1]: open it by one of those, or set tokens"
            )
        return await handler(request)

    return check

"""The HTTP server, on another port than gRPC: it listens, and applies the rules that all requests share."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial

from aiohttp import web

from midrib.server._admission.tls import TlsFiles, renewing_context
from midrib.server._admission.tokens import CURRENT_TENANT, AccessTokens
from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._calls.requests import Caller
from midrib.server._descriptors import ACCEPTED_AT_ONCE, let_wait
from midrib.server._http.access_log import log_access
from midrib.server._http.call import CURRENT_CALL, HttpCall
from midrib.server._http.connections import HEADERS, HttpConnection, LastRequests, send
from midrib.server._http.cors import Cors
from midrib.server._http.errors import Handler, errors_as_json
from midrib.server._http.guard import HttpGuard
from midrib.server._http.openapi import Operation
from midrib.server._http.routes import Routes
from midrib.server._settings import Settings
from midrib.wire import DeadlineExceededError, InvalidInputError, MidribError

# The connections that may wait to be accepted, as many as on the gRPC port.
_BACKLOG = 4096
# HTTP has no deadlines. Calls that take longer are given up, the time to receive their bodies included.
_LONGEST_S = 60.0
# UMAP compiles for half a minute on a free core before it computes.
_LONGEST_OF_PATH_S = {"/console/api/map": 600.0}
_TIMEOUT_HEADER = "X-Request-Timeout"
_CONNECT_TIMEOUT_HEADER = "Connect-Timeout-Ms"
# How long a connection may send nothing before its first request, within the headers of one, and between two.
_SILENT_S = 75.0


class HttpServer:
    """Answers HTTP from the same engine as the gRPC services.

    tokens: those of the gRPC services; None if the server needs none.
    routes: further routes, such as those of the Connect protocol and of the console.
    operations: describes the console's routes, if the console is on.
    port: the port that it listens on, once started.
    """

    def __init__(
        self,
        embedder: RequestEmbedder,
        tokens: AccessTokens | None,
        *,
        routes: Sequence[web.RouteDef] = (),
        operations: Sequence[Operation] = (),
    ) -> None:
        self.port = 0
        self._routes = [*Routes(embedder, operations=operations).all(), *routes]
        self._embedder = embedder
        self._catalogue = embedder.catalogue
        self._settings = embedder.catalogue.settings
        self._tokens = tokens
        self._connections = LastRequests(_SILENT_S)
        self._runner: web.AppRunner
        self._listener: asyncio.Server
        self._janitor: asyncio.Task[None]

    async def start(self, host: str, port: int) -> None:
        """Listen on an address.

        Raises ConnectionError if the address is not available, OSError for a certificate that cannot be used.
        """
        tls = _tls_files(self._settings)
        context = None if tls is None else renewing_context(tls)
        self._runner = web.AppRunner(
            self._application(tls),
            handler_cancellation=True,  # if a caller hangs up, its items are cancelled
            shutdown_timeout=self._settings.drain_grace_s,
        )
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._connection, host, port, ssl=context, reuse_address=True, backlog=ACCEPTED_AT_ONCE
            )
        except OSError as error:
            await self._runner.cleanup()
            raise ConnectionError(
                f"cannot listen on {host}:{port} for HTTP: is another server there? Choose another http_port, "
                "or 0 for a free one"
            ) from error
        let_wait(self._listener, _BACKLOG)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._janitor = asyncio.create_task(self._connections.close_silent(self._server()))

    def _connection(self) -> HttpConnection:
        """Return the protocol of a new connection."""
        return HttpConnection(
            self._server(), partial(self._catalogue.accounting.refused, "http"), loop=asyncio.get_running_loop()
        )

    def _application(self, tls: TlsFiles | None) -> web.Application:
        guard = HttpGuard(self._tokens, public_health=self._settings.public_health, tls=tls)
        cors = Cors(self._settings.cors_origins)
        # The first sees a request first and its response last.
        middlewares = [self._sent, self._traced, cors.allow, errors_as_json, guard.check, _within_time]
        app = web.Application(middlewares=middlewares)
        app.add_routes(self._routes)
        return app

    def _server(self) -> web.Server:
        """Return aiohttp's server. Raises RuntimeError if it was not set up."""
        if self._runner.server is None:
            raise RuntimeError("aiohttp's runner was set up and has no server: report this as a bug of Midrib")
        return self._runner.server

    async def stop(self, grace_s: float) -> None:
        """Finish the requests that are being answered within the grace, then close every connection."""
        self._janitor.cancel()
        server = self._runner.server
        if server is None:  # it was stopped before
            return
        self._listener.close()
        cleanup = asyncio.ensure_future(self._runner.cleanup())
        await asyncio.wait({cleanup}, timeout=grace_s)
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await cleanup

    @web.middleware
    async def _traced(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        tracing = self._catalogue.tracing
        if tracing is None:
            return await handler(request)
        resource = request.match_info.route.resource
        route = "" if resource is None else resource.canonical
        with tracing.request(request.method, route, request.headers) as span:
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            return response

    @web.middleware
    async def _sent(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Send the response within the limits; until then the call holds its bytes of the quotas."""
        started = time.monotonic()
        call = HttpCall(self._embedder)
        # All requests of a connection share one context.
        before = CURRENT_CALL.set(call)
        try:
            with self._connections.busy(request.protocol):
                response = await handler(request)
                if not response.prepared:
                    response.headers.update(HEADERS)
                await send(request, response, max_unread_s=self._settings.max_unread_s)
                self._record(request, response, call, time.monotonic() - started)
                return response
        finally:
            CURRENT_CALL.reset(before)
            call.release()

    def _record(self, request: web.Request, response: web.StreamResponse, call: HttpCall, seconds: float) -> None:
        if call.refusal:
            self._catalogue.accounting.refused("http", call.refusal)
        if self._settings.access_log:
            log_access(request, response, call, seconds)


@web.middleware
async def _within_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run a call within its time. Raises DeadlineExceededError when the time is over."""
    seconds = _seconds(request)
    CURRENT_CALL.get().caller = _caller(request, seconds)
    try:
        async with asyncio.timeout(seconds):
            return await handler(request)
    except MidribError:
        raise
    except TimeoutError as error:
        raise DeadlineExceededError(
            f"the call took longer than {seconds:g} s, including the time to receive its body: send less, or raise the "
            f"header {_TIMEOUT_HEADER} up to {_longest_s(request):g}"
        ) from error


def _caller(request: web.Request, seconds: float) -> Caller:
    """Return who calls: all calls of a token are one flow; without tokens those of a connection are."""
    tenant = CURRENT_TENANT.get()
    flow = request.transport and request.transport.get_extra_info("peername") if tenant is None else tenant.name
    return Caller(flow, time.monotonic() + seconds, tenant=tenant)


def _tls_files(settings: Settings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _seconds(request: web.Request) -> float:
    """Return how many seconds the caller waits at most, by its headers.

    Raises InvalidInputError for a header that is not a positive number.
    """
    seconds = _positive(request, _TIMEOUT_HEADER, "seconds, such as 2.5")
    milliseconds = _positive(request, _CONNECT_TIMEOUT_HEADER, "milliseconds, such as 2500")
    return min(seconds, milliseconds / 1000, _longest_s(request))


def _positive(request: web.Request, header: str, expected: str) -> float:
    """Return the number of a header; infinity without it. Raises InvalidInputError unless it is positive."""
    text = request.headers.get(header, "inf")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise InvalidInputError(f"{header} is {text!r}, expected {expected}")
    return number


def _longest_s(request: web.Request) -> float:
    return _LONGEST_OF_PATH_S.get(request.path, _LONGEST_S)

"""HTTP beside gRPC, on a port of its own: /v1/embeddings, /v1/models, /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
import math
import ssl
import time

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from midrib.server._admission.tls import TlsFiles, renewing_context
from midrib.server._admission.tokens import CURRENT_TENANT, Tokens
from midrib.server._calls.embedder import Embedder
from midrib.server._calls.requests import Caller
from midrib.server._catalogue.entry import CatalogueEntry
from midrib.server._engine.served_backbone import State
from midrib.server._http.connections import Connections
from midrib.server._http.embeddings import answer, embed_request, read_body
from midrib.server._http.errors import Handler, errors_as_json, logger
from midrib.server._http.guard import HttpGuard
from midrib.server._settings import Settings
from midrib.wire import DeadlineExceededError, InvalidInputError, MidribError

# JSON is read at once: 4 MiB of token ids held the event loop for 0.2 s.
_MAX_BODY_BYTES = 4 * 2**20
# HTTP has no deadlines: what takes longer, slow bodies included, is given up.
_LONGEST_S = 60.0
_TIMEOUT_HEADER = "X-Request-Timeout"
# Of a connection before, between and within the heads of its requests.
_SILENT_S = 75.0


class HttpServer:
    """Answers from the same engine as the gRPC services.

    tokens: those of the gRPC services; None where the server asks for none.
    """

    def __init__(self, embedder: Embedder, tokens: Tokens | None) -> None:
        self.port = 0
        self._embedder = embedder
        self._catalogue = embedder.catalogue
        self._settings = embedder.catalogue.settings
        self._guard = HttpGuard(tokens, public_health=self._settings.public_health)
        self._connections = Connections(_SILENT_S)
        self._runner: web.AppRunner
        self._janitor: asyncio.Task[None]

    async def start(self, host: str, port: int) -> None:
        """Listen; raises ConnectionError where the address cannot be had, OSError for a broken certificate."""
        app = web.Application(
            middlewares=[self._traced, errors_as_json, self._while_busy, self._guard.check, _within_time],
            client_max_size=min(_MAX_BODY_BYTES, self._settings.max_message_bytes),
        )
        app.add_routes(
            [
                web.post("/v1/embeddings", self._embeddings),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{name:.+}", self._model),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        # A caller that hangs up is a cancelled item; a compressed body could be a bomb.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=logger,
            handler_cancellation=True,
            auto_decompress=False,
            shutdown_timeout=self._settings.drain_grace_s,
        )
        tls = _tls(self._settings)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, ssl_context=tls, reuse_address=True, reuse_port=False).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConnectionError(
                f"cannot listen on {host}:{port} for HTTP: is another server there? Choose another http_port, "
                "or 0 for a free one"
            ) from error
        self.port = self._runner.addresses[0][1]
        server = self._runner.server
        if server is None:
            raise RuntimeError("aiohttp's runner was set up and has no server: this is a fault of ours")
        self._janitor = asyncio.create_task(self._connections.close_silent(server))

    async def stop(self) -> None:
        """Finish what is being answered, close every connection."""
        self._janitor.cancel()
        await self._runner.cleanup()

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
    async def _while_busy(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        with self._connections.busy(request.protocol):
            return await handler(request)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            # A page in a browser can send other types to the loopback without asking.
            raise InvalidInputError(f"Content-Type is {request.content_type!r}, expected 'application/json'")
        body = read_body(await request.read())
        wanted = embed_request(body, self._catalogue.entry(body.model).ready())
        embedded = await self._embedder.embed(wanted, _caller(request))
        pieces = [piece async for piece in answer(embedded, body)]
        return web.Response(
            body=b"".join(pieces),
            content_type="application/json",
            headers={"Midrib-Revision": embedded.by.revision},
        )

    async def _models(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        entries = sorted(self._catalogue.entries.values(), key=lambda entry: entry.name)
        served = [_model_object(entry) for entry in entries if entry.state is State.READY]
        return web.json_response({"object": "list", "data": served})

    async def _model(self, request: web.Request) -> web.Response:
        return web.json_response(_model_object(self._catalogue.entry(request.match_info["name"])))

    async def _healthz(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        if self._catalogue.ready:
            return web.Response(text="ready\n")
        states = "".join(f"{entry.name}: {entry.state.value}\n" for entry in self._catalogue.entries.values())
        return web.Response(text=f"not ready\n{states}", status=503)

    async def _metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        text = generate_latest(self._catalogue.metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@web.middleware
async def _within_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    seconds = _seconds(request)
    try:
        async with asyncio.timeout(seconds):
            return await handler(request)
    except MidribError:
        raise
    except TimeoutError as error:
        raise DeadlineExceededError(f"the call took longer than {seconds:g} s, reading its body included") from error


def _caller(request: web.Request) -> Caller:
    """All calls of a token are one flow; without tokens a connection is one."""
    tenant = CURRENT_TENANT.get()
    flow = request.transport and request.transport.get_extra_info("peername") if tenant is None else tenant.name
    return Caller(flow, time.monotonic() + _seconds(request), tenant=tenant)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return renewing_context(TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca))


def _seconds(request: web.Request) -> float:
    """How long the caller waits at most, by the header."""
    text = request.headers.get(_TIMEOUT_HEADER, str(_LONGEST_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InvalidInputError(f"{_TIMEOUT_HEADER} is {text!r}, expected seconds, such as 2.5")
    return min(seconds, _LONGEST_S)


def _model_object(entry: CatalogueEntry) -> dict[str, object]:
    return {"id": entry.name, "object": "model", "created": 0, "owned_by": "midrib"}

"""The server: start its services, load its backbones, and stop it after a drain."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from midrib.backbones import BACKBONES
from midrib.registry import AbstractRegistry
from midrib.remote._command.names import import_module
from midrib.server._admission.tokens import AccessTokens
from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._catalogue.entry import CatalogueEntry
from midrib.server._catalogue.processes import start_forking
from midrib.server._descriptors import DescriptorWatch
from midrib.server._foreign import in_thread
from midrib.server._grpc.backbone_service import BackboneService
from midrib.server._grpc.codecs.fast import CODECS
from midrib.server._grpc.decoding import DecodingServer
from midrib.server._grpc.embedding_service import EmbeddingService
from midrib.server._grpc.listen import AnyServer, add_port, grpc_server, metrics_of, request_limits
from midrib.server._grpc.observers import HealthService, ReflectionService
from midrib.server._observability.accounting import CURRENT_ACCOUNTING
from midrib.server._observability.tracing import tracing_for
from midrib.server._oip.large_request import INFER_CODECS
from midrib.server._oip.registration import SERVICE_NAME as INFERENCE_SERVICE
from midrib.server._oip.registration import add_inference_service, reflection_pool
from midrib.server._oip.service import InferenceService
from midrib.server._settings import Settings
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, embedding_pb2_grpc

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from midrib.server._http.server import HttpServer
    from midrib.server._observability.tracing import Tracing

logger = logging.getLogger(__name__)

_SERVICES = [
    backbone_pb2.DESCRIPTOR.services_by_name["BackboneService"].full_name,
    embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name,
    health.SERVICE_NAME if hasattr(health, "SERVICE_NAME") else "grpc.health.v1.Health",
    reflection.SERVICE_NAME,
    INFERENCE_SERVICE,
]
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_LOOPBACK = "127.0.0.1"
# A quiet period without calls, and the longest wait for it.
_QUIET_S = 0.1
_MAX_SETTLING_S = 2.0
# For calls that are answered when the grace has ended, until their answers are written.
_LAST_ANSWERS_S = 1.0


class Server:
    """Serves the backbones that its settings name.

    tracer_provider: receives OpenTelemetry spans; by default the one of the program, or of its OTEL_ variables.
    new_grpc_server: makes the gRPC server of the services; `HostedServices` if another server accepts the calls.

    `start` raises ConnectionError if the address is not free; `load` raises the errors of loading.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: AbstractRegistry = BACKBONES,
        tracer_provider: TracerProvider | None = None,
        new_grpc_server: Callable[[Settings, AccessTokens | None, Tracing | None], Any] = grpc_server,
    ) -> None:
        self.settings = settings
        self._new_grpc_server = new_grpc_server
        self.port = settings.port
        self._stopping = asyncio.Event()
        self._health = HealthService(self._stopping)
        self._health_changes: set[asyncio.Task[None]] = set()
        self.catalogue = Catalogue(settings, registry, on_change=self._report_health)
        self.catalogue.tracing = self._tracing = tracing_for(tracer_provider)
        self.embedder = RequestEmbedder(self.catalogue)
        self.tokens = None if settings.tokens is None else AccessTokens(settings.tokens)
        self._embedding: EmbeddingService
        self._grpc: AnyServer
        self._admin: AnyServer | None = None
        self._admin_port = 0
        self._http: HttpServer | None = None
        self._descriptors: DescriptorWatch | None = None

    @property
    def address(self) -> str:
        """The address for clients: "host:port"."""
        return address(self.settings.host, self.port)

    @property
    def http_address(self) -> str | None:
        """The HTTP address, "host:port"; None if HTTP is off."""
        return None if self._http is None else address(self.settings.host, self._http.port)

    @property
    def admin_address(self) -> str | None:
        """The separate address for loading and unloading; None if the settings have no admin_port."""
        return None if self._admin is None else address(_LOOPBACK, self._admin_port)

    async def start(self) -> None:
        """Listen. Calls are answered with UNAVAILABLE until `load` has ended."""
        CURRENT_ACCOUNTING.set(self.catalogue.accounting)
        if self.settings.workers == "process":
            start_forking()
        self.catalogue.starting = True
        self._grpc = self._new_grpc_server(self.settings, self.tokens, self._tracing)
        backbones = BackboneService(self.catalogue, admin=self.settings.admin)
        codecs = {**CODECS, **INFER_CODECS}
        services: Any = DecodingServer(self._grpc, request_limits(self.settings), codecs)  # the stubs ask for a server
        backbone_pb2_grpc.add_BackboneServiceServicer_to_server(backbones, services)
        self._embedding = EmbeddingService(self.embedder)
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(self._embedding, services)
        add_inference_service(InferenceService(self.embedder, backbones), services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        reflections = ReflectionService(_SERVICES, reflection_pool(_SERVICES), stopping=self._stopping)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call] # the stubs lack it
            reflections, services
        )
        await self._health.set("", _NOT_SERVING)
        try:
            await self._listen()
        except BaseException:
            await self._stop_ports(0.0)
            raise

    async def _listen(self) -> None:
        self._descriptors = DescriptorWatch()
        self.port = add_port(self._grpc, self.settings, self.address)
        await self._grpc.start()
        if (metrics := metrics_of(self._grpc)) is not None:
            self.catalogue.metrics.registry.register(metrics)
        if self.settings.admin_port is not None:
            await self._start_admin(self.settings.admin_port)
        if self.settings.http_port is not None:
            http = http_server(self.embedder, self.tokens)
            await http.start(self.settings.host, self.settings.http_port)
            self._http = http

    async def _start_admin(self, port: int) -> None:
        in_process = self.settings.model_copy(update={"fronts": 1})
        self._admin = grpc_server(in_process, self.tokens, self._tracing)
        backbone_pb2_grpc.add_BackboneServiceServicer_to_server(
            BackboneService(self.catalogue, admin=True),
            DecodingServer(self._admin, request_limits(self.settings)),
        )
        self._admin_port = add_port(self._admin, self.settings, address(_LOOPBACK, port))
        await self._admin.start()

    def reload(self) -> None:
        """Read the tokens again; if the file is wrong, log it and keep the present tokens."""
        try:
            if self.tokens is not None:
                self.tokens.reload()
        except (OSError, ValueError):
            logger.exception("the token file cannot be read: the present tokens stay in force")

    async def load(self, *, on_progress: Callable[[int, str], object] = lambda _index, _event: None) -> None:
        """Load and warm every backbone of the settings, then report ready. Raises the first error of a load.

        on_progress: called with the index of a backbone in the settings and "loading", then "ready".
        """
        for module in self.settings.imports:
            await in_thread(partial(import_module, module), f"importing {module!r}")
        for requested in self.settings.backbones:
            self.catalogue.expect(requested)
        self.catalogue.starting = False
        for index, requested in enumerate(self.settings.backbones):
            on_progress(index, "loading")
            await self.catalogue.load(requested)
            on_progress(index, "ready")
        self.catalogue.complete = True
        await self._health.set("", _SERVING)

    async def stop(self, grace_s: float | None = None) -> None:
        """Report not ready, send GoAway, finish the accepted items within the grace, then close.

        It returns within the grace and a few seconds, also if a forward pass or a loader hangs.
        """
        grace = self.settings.drain_grace_s if grace_s is None else grace_s
        end = time.monotonic() + grace
        await self._health.set("", _NOT_SERVING)
        await self.catalogue.close(grace)
        self._stopping.set()
        self._embedding.close()
        await self._answer_what_has_arrived(min(grace, _MAX_SETTLING_S))
        grace = max(_LAST_ANSWERS_S, end - time.monotonic())
        await self._stop_ports(grace)
        await self._health.enter_graceful_shutdown()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    async def _stop_ports(self, grace: float) -> None:
        """Stop all ports at the same time: one after the other, each would take the whole grace."""
        if self._descriptors is not None:
            self._descriptors.close()
        ports = (self._http, self._admin, self._grpc)
        await asyncio.gather(*(port.stop(grace) for port in ports if port is not None))

    async def _answer_what_has_arrived(self, seconds: float) -> None:
        """Wait until no call has come for a moment.

        A stopping gRPC server answers CANCELLED to calls that it has not handed over yet. Their callers should learn
        that they may try another server.
        """
        end = time.monotonic() + seconds
        calls = -1
        while calls != self.embedder.calls and time.monotonic() < end:
            calls = self.embedder.calls
            await asyncio.sleep(_QUIET_S)

    def _report_health(self, entry: CatalogueEntry) -> None:
        status = _SERVING if entry.serving else _NOT_SERVING
        change = asyncio.get_running_loop().create_task(self._health.set(entry.name, status))
        self._health_changes.add(change)
        change.add_done_callback(self._health_changes.discard)


def address(host: str, port: int) -> str:
    """Return "host:port", with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def http_server(embedder: RequestEmbedder, tokens: AccessTokens | None) -> HttpServer:
    """Return the HTTP server; raises ImportError, with the remedy, if its library is not installed."""
    try:
        from midrib.server._http.server import HttpServer
    except ModuleNotFoundError as error:
        raise ImportError(
            f"http_port is set, and HTTP needs aiohttp ({error}): pip install 'midrib-server[http]', or leave "
            "http_port out"
        ) from error
    from midrib.server._connect.routes import connect_routes

    routes = connect_routes(embedder)
    if not embedder.catalogue.settings.console:
        return HttpServer(embedder, tokens, routes=routes)
    from midrib.server._console.routes import OPERATIONS, console_routes

    return HttpServer(embedder, tokens, routes=[*routes, *console_routes(embedder)], operations=OPERATIONS)

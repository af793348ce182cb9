"""The paths of the HTTP port, and the answer of each."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._engine.description import State
from midrib.server._http.body import (
    MAX_BODY_BYTES,
    FieldsT,
    off_loop,
    parse_fields,
    receive,
    require_media_type,
)
from midrib.server._http.call import CURRENT_CALL, CallAnswer
from midrib.server._http.embeddings import (
    JSON_NUMBER_BYTES,
    EmbeddingsBody,
    answer_bytes,
    answer_parts,
    check_finite,
    embed_requests,
)
from midrib.server._http.inference import InferBody, infer_parts, infer_request, model_metadata
from midrib.server._http.openapi import Operation, docs_page, openapi_document, server_version
from midrib.server._http.similarity import SimilarityBody, embeddings_body, similarities
from midrib.server._observability.accounting import MetricsOfToken
from midrib.wire import InvalidInputError

# The page has no scripts, and loads nothing.
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


class Routes:
    """Answers requests by the engine that also serves the gRPC services.

    operations: the console's, which the description of the port includes.
    """

    def __init__(self, embedder: RequestEmbedder, *, operations: Sequence[Operation] = ()) -> None:
        self._catalogue = embedder.catalogue
        self._settings = embedder.catalogue.settings
        self._openapi = openapi_document(tokens=self._settings.tokens is not None, console=operations)
        self._max_body_bytes = min(MAX_BODY_BYTES, self._settings.max_message_bytes)

    def all(self) -> list[web.RouteDef]:
        """Return every method and path, with its handler."""
        return [
            web.post("/v1/embeddings", self.embeddings),
            web.post("/similarity", self.similarity),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{name:.+}", self.model),
            web.get("/v2", self.server_metadata),
            web.get("/v2/health/live", self.live),
            web.get("/v2/health/ready", self.ready),
            web.post("/v2/models/{name:.+}/infer", self.infer),
            web.get("/v2/models/{name:.+}/ready", self.model_ready),
            web.get("/v2/models/{name:.+}", self.model_metadata),
            web.get("/openapi.json", self.openapi),
            web.get("/docs", self.docs),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """Answer OpenAI's embeddings call."""
        body = await self._fields(EmbeddingsBody, request)
        answer = await self._embed(body)
        return web.Response(
            body=b"".join([part async for part in answer_parts(answer, body)]),
            content_type="application/json",
            headers={"Midrib-Revision": answer.by.revision},
        )

    async def similarity(self, request: web.Request) -> web.StreamResponse:
        """Answer how similar sentences are, as text-embeddings-inference does."""
        body = await self._fields(SimilarityBody, request)
        answer = await self._embed(embeddings_body(body, body.model or self._only_model()))
        check_finite(answer)
        return web.json_response(similarities(answer.features), headers={"Midrib-Revision": answer.by.revision})

    async def _embed(self, body: EmbeddingsBody) -> CallAnswer:
        call = CURRENT_CALL.get()
        loaded = self._catalogue.entry(body.model).ready()
        token_ids = self._settings.http_token_ids
        requests = await off_loop(call.held, lambda: embed_requests(body, loaded, token_ids=token_ids))
        num_features = loaded.served.description.num_features
        width = min(body.dimensions or num_features, num_features)
        call.hold_items(requests, loaded, row_bytes=answer_bytes(body, width))
        return await call.embed(requests)

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """Answer the Open Inference Protocol's call."""
        call = CURRENT_CALL.get()
        loaded = self._catalogue.entry(request.match_info["name"]).ready()
        described = loaded.served.description
        body = await self._fields(InferBody, request)
        requests = [await off_loop(call.held, lambda: infer_request(body, described))]
        call.hold_items(requests, loaded, row_bytes=JSON_NUMBER_BYTES * described.num_features)
        parts = infer_parts(await call.embed(requests), body)
        return web.Response(body=b"".join([part async for part in parts]), content_type="application/json")

    def _only_model(self) -> str:
        """Return the only served backbone. Raises InvalidInputError unless there is exactly one."""
        if len(self._catalogue.entries) != 1:
            served = ", ".join(sorted(self._catalogue.entries)) or "none"
            raise InvalidInputError(f"model is absent, expected one of the served backbones: {served}", field="model")
        return next(iter(self._catalogue.entries))

    async def _fields(self, kind: type[FieldsT], request: web.Request) -> FieldsT:
        require_media_type(request, "application/json")
        call = CURRENT_CALL.get()
        call.begin()
        return await parse_fields(kind, await receive(request, call, limit=self._max_body_bytes))

    async def models(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer the list of served backbones, in OpenAI's form."""
        entries = self._catalogue.entries
        names = {**{name: name for name in entries}, **self._catalogue.aliases}
        ready = [name for name in sorted(names) if names[name] in entries and entries[names[name]].state is State.READY]
        return web.json_response({"object": "list", "data": [_model_object(name) for name in ready]})

    async def model(self, request: web.Request) -> web.Response:
        """Answer one served backbone, in OpenAI's form."""
        return web.json_response(_model_object(self._catalogue.entry(request.match_info["name"]).name))

    async def server_metadata(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer the name and the version of the server."""
        return web.json_response({"name": "midrib", "version": server_version(), "extensions": []})

    async def live(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer that the process is alive."""
        return web.json_response({"live": True})

    async def ready(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer whether everything is loaded and the server does not stop."""
        ready = self._catalogue.ready
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def model_ready(self, request: web.Request) -> web.Response:
        """Answer whether a backbone is loaded; one that is not is an error with the reason."""
        described = self._catalogue.entry(request.match_info["name"]).ready().served.description
        return web.json_response({"name": described.name, "ready": True})

    async def model_metadata(self, request: web.Request) -> web.Response:
        """Answer the inputs and the output of a backbone."""
        described = self._catalogue.entry(request.match_info["name"]).ready().served.description
        return web.json_response(model_metadata(described))

    async def openapi(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer the OpenAPI document of the port."""
        return web.json_response(self._openapi)

    async def docs(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer a page that shows the OpenAPI document."""
        return web.Response(text=docs_page(self._openapi), content_type="text/html", headers=_PAGE_HEADERS)

    async def healthz(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer 200 while the process is alive."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer 200 once everything is loaded and until the server stops, else 503 with the states."""
        if self._catalogue.ready:
            return web.Response(text="ready\n")
        states = "".join(f"{entry.name}: {entry.state.value}\n" for entry in self._catalogue.entries.values())
        return web.Response(text=f"not ready\n{states}", status=503)

    async def metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer the metrics in the text form of Prometheus; the token of a team sees no other tokens."""
        registry, tenant = self._catalogue.metrics.registry, CURRENT_CALL.get().caller.tenant
        visible = registry if tenant is None or tenant.sees_tenants else MetricsOfToken(registry, tenant.name)
        text = generate_latest(visible)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _model_object(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "midrib"}

"""inference.GRPCInferenceService: the Open Inference Protocol with Triton's extensions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version

from midrib.oip.v2 import inference_pb2 as oip
from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._calls.requests import open_backbone
from midrib.server._catalogue.entry import CatalogueEntry
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.description import State
from midrib.server._grpc.backbone_service import BackboneService
from midrib.server._grpc.context import Context
from midrib.server._grpc.guard import caller_of
from midrib.server._grpc.item_stream import ItemStream
from midrib.server._grpc.unread import release_once_written
from midrib.server._large import beside_loop, joined
from midrib.server._oip.description import config, index, metadata, statistics
from midrib.server._oip.large_request import InferCall
from midrib.server._oip.request import infer_response, open_request, wants_final_mark
from midrib.server._oip.stream import InferStreamProtocol
from midrib.v1 import backbone_pb2, embedding_pb2
from midrib.wire import BackboneLoadingError, BackboneNotFoundError, InvalidInputError

_EXTENSIONS = ("model_configuration", "model_repository", "parameters", "statistics")


class InferenceService:
    """Answers from the same engine as Midrib's services; the version of a model is the revision of the backbone."""

    def __init__(self, embedder: RequestEmbedder, backbones: BackboneService) -> None:
        self._embedder = embedder
        self._catalogue = embedder.catalogue
        self._backbones = backbones

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        """Return that the server is alive."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        """Return whether all backbones are loaded and the server is not stopping."""
        return oip.ServerReadyResponse(ready=self._catalogue.ready)

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        """Return whether a model answers now; false for a model that is not served."""
        try:
            entry = self._catalogue.entry(request.name)
        except (BackboneNotFoundError, BackboneLoadingError):
            return oip.ModelReadyResponse(ready=False)
        served = "" if entry.loaded is None else entry.loaded.served.description.revision
        return oip.ModelReadyResponse(ready=entry.state is State.READY and request.version in ("", served))

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        """Return name, version, and the extensions of the protocol that are offered."""
        return oip.ServerMetadataResponse(name="midrib", version=_version(), extensions=_EXTENSIONS)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        """Return names, datatypes and shapes."""
        return metadata(self._open(request.name, request.version))

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        """Return the metadata in Triton's form, with the batch limit."""
        return oip.ModelConfigResponse(config=config(self._open(request.name, request.version)))

    async def ModelInfer(self, infer: InferCall, context: Context) -> bytes:
        """Return the embedding of one batch; refused at once if the quota is full."""
        call, source = await open_request(self._embedder, infer, caller_of(context))
        request = infer.message
        del infer  # its data
        item = await call.accept(source)
        embedded = await item.embed()
        release_once_written(context, item.reservation, embedded.features)
        parts = infer_response(embedded, request.id, is_final=wants_final_mark(request))
        return await beside_loop(embedded.features.nbytes, lambda: joined(parts))

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[InferCall], context: Context) -> None:
        """Read requests and answer them in their order; each waits for room."""
        protocol = InferStreamProtocol(self._embedder, caller_of(context))
        await ItemStream(self._catalogue.settings, context, protocol).run(request_iterator)

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        """Return the statistics of one model, or of all that are loaded."""
        if request.name:
            chosen = [self._open(request.name, request.version)]
        else:
            chosen = [entry.loaded for entry in self._entries() if entry.loaded is not None]
        return oip.ModelStatisticsResponse(model_stats=[statistics(loaded) for loaded in chosen])

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        """Return every backbone, ordered by name."""
        chosen = [entry for entry in self._entries() if entry.state is State.READY or not request.ready]
        return oip.RepositoryIndexResponse(models=[index(entry) for entry in chosen])

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: Context
    ) -> oip.RepositoryModelLoadResponse:
        """Load a backbone as LoadBackbone does; the parameters are arguments of its loader."""
        arguments = {name: _argument(name, value) for name, value in request.parameters.items()}
        await self._backbones.load(backbone_pb2.LoadBackboneRequest(name=request.model_name, arguments=arguments))
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: Context
    ) -> oip.RepositoryModelUnloadResponse:
        """Unload a backbone as UnloadBackbone does."""
        await self._backbones.unload(request.model_name)
        return oip.RepositoryModelUnloadResponse()

    def _open(self, name: str, revision: str) -> Loaded:
        return open_backbone(self._catalogue, embedding_pb2.Open(backbone=name, revision=revision or None))

    def _entries(self) -> list[CatalogueEntry]:
        return sorted(self._catalogue.entries.values(), key=lambda entry: entry.name)


def _argument(name: str, value: oip.ModelRepositoryParameter) -> backbone_pb2.Argument:
    """Return an argument of a loader. Raises InvalidInputError for another type."""
    kind = value.WhichOneof("parameter_choice")
    if kind == "bool_param":
        return backbone_pb2.Argument(bool_value=value.bool_param)
    if kind == "int64_param":
        return backbone_pb2.Argument(int_value=value.int64_param)
    if kind == "string_param":
        return backbone_pb2.Argument(string_value=value.string_param)
    raise InvalidInputError(
        f"parameter {name!r} holds {kind or 'nothing'}: an argument of a loader is a bool, an int64 or a string; "
        "files and configurations are not taken from clients",
        field=f"parameters[{name}]",
    )


def _version() -> str:
    try:
        return version("midrib-server")
    except PackageNotFoundError:
        return "source"

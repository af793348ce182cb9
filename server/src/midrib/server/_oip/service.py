"""inference.GRPCInferenceService: the Open Inference Protocol, as Triton speaks it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version

from midrib.oip.v2 import inference_pb2 as oip
from midrib.server._admission.quotas import Reservation
from midrib.server._calls.embedder import Embedded, Embedder
from midrib.server._calls.requests import Caller, open_backbone
from midrib.server._catalogue.entry import CatalogueEntry
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.served_backbone import State
from midrib.server._grpc.backbone_service import BackboneService
from midrib.server._grpc.context import caller_of
from midrib.server._grpc.errors import Context, abort, unary
from midrib.server._oip.description import config, datatype, index, metadata, statistics
from midrib.server._oip.request import OUTPUT, embed_request, parameter
from midrib.server._oip.stream import InferStream
from midrib.v1 import backbone_pb2, embedding_pb2
from midrib.wire import BackboneNotFoundError, InvalidInputError, encode_tensor

_EXTENSIONS = ("model_configuration", "model_repository", "parameters", "statistics")


class InferenceService:
    """Answers from the same engine as Midrib's own services; a model's version is the backbone's revision."""

    def __init__(self, embedder: Embedder, backbones: BackboneService) -> None:
        self._embedder = embedder
        self._catalogue = embedder.catalogue
        self._backbones = backbones

    @unary
    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        """Whoever can be asked is alive."""
        return oip.ServerLiveResponse(live=True)

    @unary
    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        """Whether all is loaded and nothing drains."""
        return oip.ServerReadyResponse(ready=self._catalogue.ready)

    @unary
    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        """Whether a model answers now; one that is not served does not."""
        try:
            entry = self._catalogue.entry(request.name)
        except BackboneNotFoundError:
            return oip.ModelReadyResponse(ready=False)
        served = "" if entry.loaded is None else entry.loaded.served.description.revision
        return oip.ModelReadyResponse(ready=entry.state is State.READY and request.version in ("", served))

    @unary
    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        """Name, version, and the protocol's extensions that are served."""
        return oip.ServerMetadataResponse(name="midrib", version=_version(), extensions=_EXTENSIONS)

    @unary
    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        """Names, datatypes and shapes."""
        return metadata(self._open(request.name, request.version))

    @unary
    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        """Metadata in Triton's form, with the batch limit."""
        return oip.ModelConfigResponse(config=config(self._open(request.name, request.version)))

    @unary
    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        """One batch in, its embedding out; refused at once where there is no room."""
        response, reservation = await self._infer(request, caller_of(context))
        reservation.release()
        return response

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[oip.ModelInferRequest], context: Context) -> None:
        """Requests in, answers out in their order; each waits for room."""
        try:
            caller = caller_of(context)._replace(waits_for_room=True)
            stream = InferStream(self._catalogue, context, lambda request: self._infer(request, caller))
            await stream.run(request_iterator)
        except Exception as error:  # noqa: BLE001 - the outer boundary: everything becomes a status
            await abort(context, error)

    @unary
    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        """Of one model, or of all that are loaded."""
        if request.name:
            chosen = [self._open(request.name, request.version)]
        else:
            chosen = [entry.loaded for entry in self._entries() if entry.loaded is not None]
        return oip.ModelStatisticsResponse(model_stats=[statistics(loaded) for loaded in chosen])

    @unary
    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        """Every backbone, ordered by name."""
        chosen = [entry for entry in self._entries() if entry.state is State.READY or not request.ready]
        return oip.RepositoryIndexResponse(models=[index(entry) for entry in chosen])

    @unary
    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: Context
    ) -> oip.RepositoryModelLoadResponse:
        """LoadBackbone: the parameters are arguments that the loader declares."""
        arguments = {name: _argument(name, value) for name, value in request.parameters.items()}
        await self._backbones.load(backbone_pb2.LoadBackboneRequest(name=request.model_name, arguments=arguments))
        return oip.RepositoryModelLoadResponse()

    @unary
    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: Context
    ) -> oip.RepositoryModelUnloadResponse:
        """UnloadBackbone."""
        await self._backbones.unload(request.model_name)
        return oip.RepositoryModelUnloadResponse()

    async def _infer(
        self, request: oip.ModelInferRequest, caller: Caller
    ) -> tuple[oip.ModelInferResponse, Reservation]:
        loaded = self._open(request.model_name, request.model_version)
        wanted = embed_request(request, loaded.intake.max_rows)
        until = _sooner(caller, parameter(request.parameters, "timeout"))
        embedded, reservation = await self._embedder.embed_held(wanted, until)
        response = _response(embedded, request.id)
        if parameter(request.parameters, "triton_enable_empty_final_response"):
            response.parameters["triton_final_response"].bool_param = True
        return response, reservation

    def _open(self, name: str, revision: str) -> Loaded:
        return open_backbone(self._catalogue, embedding_pb2.Open(backbone=name, revision=revision or None))

    def _entries(self) -> list[CatalogueEntry]:
        return sorted(self._catalogue.entries.values(), key=lambda entry: entry.name)


def _response(embedded: Embedded, request_id: str) -> oip.ModelInferResponse:
    tensor = encode_tensor(embedded.features)
    output = oip.ModelInferResponse.InferOutputTensor(
        name=OUTPUT, datatype=datatype(embedded.features.dtype.name), shape=tensor.shape
    )
    return oip.ModelInferResponse(
        model_name=embedded.by.name,
        model_version=embedded.by.revision,
        id=request_id,
        outputs=[output],
        raw_output_contents=[tensor.data],
    )


def _sooner(caller: Caller, timeout_us: int | None) -> Caller:
    """The caller, until the protocol's own timeout if that comes before its deadline."""
    if not timeout_us:
        return caller
    until = time.monotonic() + timeout_us / 1e6
    return caller._replace(deadline=until if caller.deadline is None else min(until, caller.deadline))


def _argument(name: str, value: oip.ModelRepositoryParameter) -> backbone_pb2.Argument:
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

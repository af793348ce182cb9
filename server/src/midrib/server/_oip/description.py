"""Describes a backbone in the Open Inference Protocol: metadata, configuration, statistics, index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from midrib.oip.v2 import inference_pb2
from midrib.registry import InputSpec
from midrib.server._catalogue.entry import CatalogueEntry
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.description import State
from midrib.server._engine.outcomes import WorkTotals
from midrib.server._intake.media import media_kind
from midrib.server._oip.contents import BYTES, TENSOR_INPUT
from midrib.server._oip.request import OUTPUT, datatype

PLATFORM = "midrib"
_STATES = {State.LOADING: "LOADING", State.READY: "READY", State.DRAINING: "UNLOADING", State.FAILED: "UNAVAILABLE"}


@dataclass(frozen=True)
class _Signature:
    """A tensor's name, datatype and shape without the batch; -1 is any size."""

    name: str
    datatype: str
    dims: tuple[int, ...]

    @property
    def metadata(self) -> inference_pb2.ModelMetadataResponse.TensorMetadata:
        return inference_pb2.ModelMetadataResponse.TensorMetadata(
            name=self.name, datatype=self.datatype, shape=[-1, *self.dims]
        )

    @property
    def data_type(self) -> inference_pb2.DataType:
        # The configuration calls BYTES by another name.
        name = "TYPE_" + ("STRING" if self.datatype == BYTES else self.datatype)
        return cast(inference_pb2.DataType, inference_pb2.DataType.Value(name))


def metadata(loaded: Loaded) -> inference_pb2.ModelMetadataResponse:
    """Return the inputs, of which a request has one, and the output."""
    described = loaded.served.description
    return inference_pb2.ModelMetadataResponse(
        name=described.name,
        versions=[described.revision],
        platform=PLATFORM,
        inputs=[signature.metadata for signature in _inputs(described.input)],
        outputs=[_output(loaded).metadata],
    )


def config(loaded: Loaded) -> inference_pb2.ModelConfig:
    """Return the metadata in the form of Triton's configuration, with the largest number of rows of a request."""
    described, output = loaded.served.description, _output(loaded)
    parameters = {"device": described.device, "license": described.license, "revision": described.revision}
    return inference_pb2.ModelConfig(
        name=described.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=loaded.intake.max_rows,
        input=[
            inference_pb2.ModelInput(
                name=signature.name, data_type=signature.data_type, dims=signature.dims, optional=True
            )
            for signature in _inputs(described.input)
        ],
        output=[inference_pb2.ModelOutput(name=output.name, data_type=output.data_type, dims=output.dims)],
        parameters={key: inference_pb2.ModelParameter(string_value=value) for key, value in parameters.items()},
    )


def statistics(loaded: Loaded) -> inference_pb2.ModelStatistics:
    """Return counts and times of a backbone since it was loaded, for the clients of every protocol."""
    described, totals = loaded.served.description, loaded.served.totals
    return inference_pb2.ModelStatistics(
        name=described.name,
        version=described.revision,
        last_inference=int(totals.last * 1e3),
        inference_count=totals.rows,
        execution_count=totals.batches,
        inference_stats=_durations(totals),
    )


def index(entry: CatalogueEntry) -> inference_pb2.RepositoryIndexResponse.ModelIndex:
    """Return the entry of a backbone in the repository's index."""
    version = "" if entry.loaded is None else entry.loaded.served.description.revision
    return inference_pb2.RepositoryIndexResponse.ModelIndex(
        name=entry.name, version=version, state=_STATES[entry.state], reason=entry.error
    )


def _inputs(spec: InputSpec) -> list[_Signature]:
    tensor = spec.tensor
    dims = tuple(-1 if size is None else size for size in tensor.shape)
    inputs = [_Signature(TENSOR_INPUT, datatype(tensor.dtype), dims)]
    kind = media_kind(spec)
    if kind in ("images", "texts"):
        inputs.append(_Signature(kind, BYTES, (1,)))
    return inputs


def _output(loaded: Loaded) -> _Signature:
    described = loaded.served.description
    return _Signature(OUTPUT, datatype(described.dtype), (described.num_features,))


def _durations(totals: WorkTotals) -> inference_pb2.InferStatistics:
    def duration(count: int, seconds: float) -> inference_pb2.StatisticDuration:
        return inference_pb2.StatisticDuration(count=count, ns=int(seconds * 1e9))

    return inference_pb2.InferStatistics(
        success=duration(totals.answered, totals.queue_s + totals.compute_s),
        fail=duration(totals.failed, 0.0),
        queue=duration(totals.answered, totals.queue_s),
        compute_infer=duration(totals.batches, totals.compute_s),
    )

"""inference.GRPCInferenceService: metadata, statistics, loading and reflection, by any generated client."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from midrib.oip.v2 import inference_pb2 as oip
from midrib.registry import Registry
from midrib.server.testing import serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor
from server.tests.oip.oip_client import (
    GATE,
    ROWS,
    Code,
    Inference,
    raw,
)


def test_live_and_ready(inference: Inference) -> None:
    """Loaded and warmed is ready."""
    assert inference.ServerLive(oip.ServerLiveRequest(), timeout=10).live
    assert inference.ServerReady(oip.ServerReadyRequest(), timeout=10).ready


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        pytest.param(GATE, "", True, id="full name"),
        pytest.param("gate", "", True, id="short name"),
        pytest.param("gate", "1", False, id="another revision"),
        pytest.param("nothing", "", False, id="not served"),
    ],
)
def test_a_model_is_ready_or_not(inference: Inference, name: str, version: str, ready: bool) -> None:
    """The answer is false, never an error."""
    assert inference.ModelReady(oip.ModelReadyRequest(name=name, version=version), timeout=10).ready is ready


def test_the_server_names_itself(inference: Inference) -> None:
    """The answer has the extensions too."""
    listener = inference.ServerMetadata(oip.ServerMetadataRequest(), timeout=10)
    assert listener.name == "midrib"
    assert list(listener.extensions) == ["model_configuration", "model_repository", "parameters", "statistics"]


def test_metadata_has_the_inputs_and_the_output(media: Inference) -> None:
    """An input is the tensor, or media as BYTES; the version is the revision."""
    listener = media.ModelMetadata(oip.ModelMetadataRequest(name="image/embedding/picture"), timeout=10)
    assert [(entry.name, entry.datatype, list(entry.shape)) for entry in [*listener.inputs, *listener.outputs]] == [
        ("input", "FP32", [-1, 3, 8, 8]),
        ("images", "BYTES", [-1, 1]),
        ("embedding", "FP32", [-1, 3]),
    ]
    assert (listener.name, len(listener.versions[0])) == ("image/embedding/picture", 64)


def test_the_configuration_says_the_same_in_tritons_form(media: Inference) -> None:
    """Without the batch dimension, with the batch limit."""
    listener = media.ModelConfig(oip.ModelConfigRequest(name="words"), timeout=10).config
    assert [(entry.name, oip.DataType.Name(entry.data_type), list(entry.dims)) for entry in listener.input] == [
        ("input", "TYPE_INT64", [-1]),
        ("texts", "TYPE_STRING", [1]),
    ]
    assert (listener.max_batch_size, list(listener.output[0].dims), listener.platform) == (1024, [4], "midrib")


def test_statistics_count_the_calls_of_every_protocol(test_registry: Registry) -> None:
    """They have rows, batches and times."""
    with (
        serving("gate", "linear", registry=test_registry) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        embedding: Any = embedding_pb2_grpc.EmbeddingServiceStub(opened)
        message = embedding_pb2.Input(tensor=encode_tensor(ROWS))
        embedding.Embed(embedding_pb2.EmbedRequest(backbone="gate", input=message), timeout=10)
        inference = Inference(opened)
        inference.ModelInfer(raw(ROWS, "FP32"), timeout=10)
        (listener,) = inference.ModelStatistics(oip.ModelStatisticsRequest(name="gate"), timeout=10).model_stats
        every = inference.ModelStatistics(oip.ModelStatisticsRequest(), timeout=10).model_stats
    assert (listener.inference_count, listener.execution_count, listener.inference_stats.success.count) == (6, 2, 2)
    assert listener.inference_stats.compute_infer.ns > 0
    assert [entry.name for entry in every] == [GATE, "test/embedding/linear"]


def test_the_index_lists_states(inference: Inference) -> None:
    """The models are ordered by name."""
    listener = inference.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=10).models
    assert [(entry.name, entry.state, entry.reason) for entry in listener] == [
        (GATE, "READY", ""),
        ("test/embedding/linear", "READY", ""),
    ]


def test_loading_needs_admin(inference: Inference) -> None:
    """The checks are those of LoadBackbone."""
    with pytest.raises(grpc.RpcError, match="start the server with --admin") as caught:
        inference.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="linear"), timeout=10)
    assert caught.value.code() is Code.PERMISSION_DENIED


def test_an_admin_loads_and_unloads(test_registry: Registry) -> None:
    """With arguments that the loader declares."""
    five = {"num_features": oip.ModelRepositoryParameter(int64_param=5)}
    with (
        serving("gate", registry=test_registry, admin=True) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        inference = Inference(opened)
        inference.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="linear", parameters=five), timeout=60)
        listener = inference.ModelMetadata(oip.ModelMetadataRequest(name="linear"), timeout=10)
        inference.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="linear"), timeout=10)
        left = inference.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=10).models
    assert list(listener.outputs[0].shape) == [-1, 5]
    assert [entry.name for entry in left] == [GATE]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        pytest.param({"file:1/model.pt": oip.ModelRepositoryParameter(bytes_param=b"x")}, "not taken", id="a file"),
        pytest.param({"config": oip.ModelRepositoryParameter(string_param="{}")}, "no argument 'config'", id="config"),
        pytest.param(
            {"checkpoint": oip.ModelRepositoryParameter(string_param="/etc/passwd")}, "path or a URL", id="a path"
        ),
    ],
)
def test_an_admin_names_no_file(test_registry: Registry, parameters: Any, words: str) -> None:
    """The server fetches nothing for a client."""
    request = oip.RepositoryModelLoadRequest(model_name="linear", parameters=parameters)
    with (
        serving("gate", registry=test_registry, admin=True) as running,
        grpc.insecure_channel(running.address) as opened,
        pytest.raises(grpc.RpcError, match=words) as caught,
    ):
        Inference(opened).RepositoryModelLoad(request, timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT


def test_reflection_describes_the_service_by_its_clients_names(channel: grpc.Channel) -> None:
    """So that a generic client calls it as it calls Triton."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    (serialized,) = answer.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    infer = next(method for method in file.service[0].method if method.name == "ModelInfer")
    assert (file.package, infer.input_type) == ("inference", ".inference.ModelInferRequest")

"""inference.GRPCInferenceService, called as any generated client calls it: what it answers, and every refusal."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.rpc import status_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from midrib.oip.v2 import inference_pb2 as oip
from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, decode_tensor, encode_tensor, status_to_error

ROWS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
GATE = "test/embedding/gate"
Request = oip.ModelInferRequest
Code = grpc.StatusCode


class Inference:
    """The calls of the service by their names, on one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            make: Any = channel.stream_stream if method.client_streaming else channel.unary_unary
            call = make(
                f"/inference.GRPCInferenceService/{method.name}",
                request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.fixture(scope="module")
def inference(channel: grpc.Channel) -> Inference:
    """Of the server of `gate` and `linear`."""
    return Inference(channel)


@pytest.fixture(scope="module")
def media_channel(media_server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(media_server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def media(media_channel: grpc.Channel) -> Inference:
    """Of the server of `picture` and `words`."""
    return Inference(media_channel)


def tensor(datatype: str, shape: list[int], *, name: str = "input", **contents: Any) -> Request.InferInputTensor:
    typed = oip.InferTensorContents(**contents) if contents else None
    return Request.InferInputTensor(name=name, datatype=datatype, shape=shape, contents=typed)


def raw(array: Array, datatype: str, *, model: str = "gate", **fields: Any) -> oip.ModelInferRequest:
    return Request(
        model_name=model, inputs=[tensor(datatype, list(array.shape))], raw_input_contents=[array.tobytes()], **fields
    )


def texts(*elements: bytes, name: str = "texts", model: str = "words") -> oip.ModelInferRequest:
    packed = b"".join(struct.pack("<I", len(one)) + one for one in elements)
    inputs = [tensor("BYTES", [len(elements)], name=name)]
    return Request(model_name=model, inputs=inputs, raw_input_contents=[packed])


def rows(response: oip.ModelInferResponse, dtype: Any = np.float32) -> list[list[float]]:
    (output,), (data,) = response.outputs, response.raw_output_contents
    array: Array = np.frombuffer(data, dtype).reshape(output.shape).astype(np.float32)
    return array.tolist()  # type: ignore[no-any-return] # numpy's list is untyped


def reason_of(error: Any) -> str:
    """The reason that the details carry, as any client may read it."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return status_to_error(status_pb2.Status.FromString(details)).reason


def option(**value: Any) -> oip.InferParameter:
    return oip.InferParameter(**value)


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
    """A question, so never an error."""
    assert inference.ModelReady(oip.ModelReadyRequest(name=name, version=version), timeout=10).ready is ready


def test_the_server_names_itself(inference: Inference) -> None:
    """And what it serves beside inference."""
    listener = inference.ServerMetadata(oip.ServerMetadataRequest(), timeout=10)
    assert listener.name == "midrib"
    assert list(listener.extensions) == ["model_configuration", "model_repository", "parameters", "statistics"]


def test_metadata_tells_what_goes_in_and_out(media: Inference) -> None:
    """The tensor, or media as BYTES; the version is the revision."""
    listener = media.ModelMetadata(oip.ModelMetadataRequest(name="image/embedding/picture"), timeout=10)
    assert [(one.name, one.datatype, list(one.shape)) for one in [*listener.inputs, *listener.outputs]] == [
        ("input", "FP32", [-1, 3, 8, 8]),
        ("images", "BYTES", [-1, 1]),
        ("embedding", "FP32", [-1, 3]),
    ]
    assert (listener.name, len(listener.versions[0])) == ("image/embedding/picture", 64)


def test_the_configuration_says_the_same_in_tritons_form(media: Inference) -> None:
    """Without the batch dimension, with the batch limit."""
    listener = media.ModelConfig(oip.ModelConfigRequest(name="words"), timeout=10).config
    assert [(one.name, oip.DataType.Name(one.data_type), list(one.dims)) for one in listener.input] == [
        ("input", "TYPE_INT64", [-1]),
        ("texts", "TYPE_STRING", [1]),
    ]
    assert (listener.max_batch_size, list(listener.output[0].dims), listener.platform) == (1024, [4], "midrib")


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        pytest.param("FP32", np.float32, id="FP32"),
        pytest.param("FP16", np.float16, id="FP16"),
        pytest.param("BF16", ml_dtypes.bfloat16, id="BF16"),
        pytest.param("FP64", np.float64, id="FP64"),
    ],
)
def test_raw_tensors_go_end_to_end_in_each_floating_type(inference: Inference, datatype: str, dtype: Any) -> None:
    """In by the input's datatype, out by the parameter."""
    request = raw(ROWS.astype(dtype), datatype, id="7", parameters={"dtype": option(string_param=datatype)})
    answer = inference.ModelInfer(request, timeout=10)
    assert rows(answer, dtype) == (ROWS * 2).tolist()
    assert (answer.id, answer.model_name, answer.outputs[0].datatype) == ("7", GATE, datatype)


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param(tensor("FP32", [1, 2], fp32_contents=[1, 2]), id="FP32"),
        pytest.param(tensor("FP64", [1, 2], fp64_contents=[1, 2]), id="FP64"),
    ],
)
def test_typed_contents_are_the_same_as_raw(inference: Inference, typed: Any) -> None:
    """The protocol's other way to send elements."""
    assert rows(inference.ModelInfer(Request(model_name="gate", inputs=[typed]), timeout=10)) == [[2, 4]]


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(tensor("INT64", [1, 2], int64_contents=[5, 6]), id="INT64"),
        pytest.param(tensor("INT32", [1, 2], int_contents=[5, 6]), id="INT32"),
        pytest.param(tensor("UINT8", [1, 2], uint_contents=[5, 6]), id="UINT8"),
    ],
)
def test_token_ids_go_in_every_integer_type(media: Inference, ids: Any) -> None:
    """As a tensor of a text backbone."""
    answer = media.ModelInfer(Request(model_name="words", inputs=[ids]), timeout=10)
    same = media.ModelInfer(raw(np.array([[5, 6]]), "INT64", model="words"), timeout=10)
    assert rows(answer) == rows(same)


@pytest.mark.parametrize("shape", [pytest.param([2], id="[rows]"), pytest.param([2, 1], id="[rows, 1]")])
def test_texts_go_as_bytes_typed_or_raw(media: Inference, media_channel: grpc.Channel, shape: list[int]) -> None:
    """The same answer as Midrib's own call, to the bit."""
    own: Any = embedding_pb2_grpc.EmbeddingServiceStub(media_channel)
    said = ["good morning", "la bonne nuit"]
    message = embedding_pb2.Input(texts=embedding_pb2.Texts(texts=said))
    expected = decode_tensor(
        own.Embed(embedding_pb2.EmbedRequest(backbone="words", input=message), timeout=10).embedding
    )
    elements = [one.encode() for one in said]
    typed = Request(model_name="words", inputs=[tensor("BYTES", shape, name="texts", bytes_contents=elements)])
    answers = [media.ModelInfer(request, timeout=10) for request in (typed, texts(*elements))]
    assert [rows(one) for one in answers] == [expected.tolist()] * 2


def test_encoded_images_go_as_bytes(media: Inference, media_channel: grpc.Channel) -> None:
    """The same answer as Midrib's own call, to the bit."""
    encoded = io.BytesIO()
    Image.new("RGB", (20, 10), (255, 128, 0)).save(encoded, "PNG")
    own: Any = embedding_pb2_grpc.EmbeddingServiceStub(media_channel)
    message = embedding_pb2.Input(images=embedding_pb2.Images(encoded=[encoded.getvalue()]))
    expected = own.Embed(embedding_pb2.EmbedRequest(backbone="picture", input=message), timeout=10).embedding
    answer = media.ModelInfer(texts(encoded.getvalue(), name="images", model="picture"), timeout=10)
    assert rows(answer) == decode_tensor(expected).tolist()


def test_parameters_normalise_and_truncate(inference: Inference) -> None:
    """As Midrib's own options do."""
    asked = {"normalize": option(bool_param=True), "dimensions": option(int64_param=1)}
    assert rows(inference.ModelInfer(raw(ROWS, "FP32", parameters=asked), timeout=10)) == [[1], [1], [1]]


def test_no_rows_are_an_empty_embedding(inference: Inference) -> None:
    """An empty batch is no error."""
    answer = inference.ModelInfer(raw(np.empty((0, 2), np.float32), "FP32"), timeout=10)
    assert list(answer.outputs[0].shape) == [0, 2]


def test_a_version_pins_the_revision(inference: Inference) -> None:
    """The answer names it; asking for it again is fine."""
    version = inference.ModelInfer(raw(ROWS, "FP32"), timeout=10).model_version
    assert inference.ModelInfer(raw(ROWS, "FP32", model_version=version), timeout=10).model_version == version


PLAIN = raw(ROWS, "FP32")
REGION = Request.InferInputTensor(
    name="input", datatype="FP32", shape=[1, 2], parameters={"shared_memory_region": option(string_param="r")}
)
CLASSES = Request.InferRequestedOutputTensor(name="embedding", parameters={"classification": option(int64_param=3)})
TWO_RAW = Request(model_name="gate", inputs=[tensor("FP32", [1, 2])], raw_input_contents=[b"12345678"] * 2)
BOTH = Request(
    model_name="gate", inputs=[tensor("FP32", [1, 2], fp32_contents=[1, 2])], raw_input_contents=[b"12345678"]
)


@pytest.mark.parametrize(
    ("request_", "code", "reason", "words"),
    [
        pytest.param(raw(ROWS, "FP32", model="gat"), Code.NOT_FOUND, "BACKBONE_NOT_FOUND", "did you mean", id="name"),
        pytest.param(
            raw(ROWS, "FP32", model_version="1"),
            Code.FAILED_PRECONDITION,
            "REVISION_MISMATCH",
            "pins 1",
            id="version",
        ),
        pytest.param(
            Request(model_name="gate"), Code.INVALID_ARGUMENT, "INVALID_INPUT", "has 0 inputs.*takes one", id="no input"
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("FP32", [1, 2], name="x")]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "a tensor goes by the name 'input'",
            id="input's name",
        ),
        pytest.param(
            raw(ROWS, "UINT64"), Code.INVALID_ARGUMENT, "INVALID_INPUT", "'UINT64' is not taken", id="datatype"
        ),
        pytest.param(
            raw(ROWS.astype(np.int64), "INT64"),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "int64.*takes float32",
            id="wrong datatype",
        ),
        pytest.param(
            raw(ROWS[:, :1], "FP32"), Code.INVALID_ARGUMENT, "INVALID_INPUT", r"takes \[rows, 2\]", id="shape"
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("FP32", [1, 2])], raw_input_contents=[b"1"]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            r"inputs\[0\].data has 1 bytes.*takes 8",
            id="bytes",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("FP32", [-1, 2])]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "no dimension may be negative",
            id="negative shape",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("FP16", [1, 2], fp32_contents=[1, 2])]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "FP16 has no place in `contents`",
            id="typed FP16",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("INT8", [1, 2], int_contents=[1, 300])]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "do not fit into INT8",
            id="typed overflow",
        ),
        pytest.param(TWO_RAW, Code.INVALID_ARGUMENT, "INVALID_INPUT", "2 raw contents beside 1 input", id="two raw"),
        pytest.param(BOTH, Code.INVALID_ARGUMENT, "INVALID_INPUT", "once, raw or typed", id="raw and typed"),
        pytest.param(
            texts(b"x", model="gate"), Code.FAILED_PRECONDITION, "WRONG_INPUT_KIND", "got texts", id="media kind"
        ),
        pytest.param(
            texts(b"x", name="input", model="gate"),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "name it 'images' or 'texts'",
            id="BYTES name",
        ),
        pytest.param(
            texts(b"\xff", model="gate"), Code.INVALID_ARGUMENT, "INVALID_INPUT", r"texts\[0\] is no UTF-8", id="UTF-8"
        ),
        pytest.param(
            Request(
                model_name="gate", inputs=[tensor("BYTES", [1], name="texts")], raw_input_contents=[b"\x09\0\0\0ab"]
            ),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "ends within element 0",
            id="BYTES length",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("BYTES", [2], name="texts", bytes_contents=[b"a"])]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "has 1 elements, its shape .* takes 2",
            id="BYTES count",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("BYTES", [1, 2], name="texts")]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            r"take \[rows\] or \[rows, 1\]",
            id="BYTES shape",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("BYTES", [2000], name="texts")]),
            Code.RESOURCE_EXHAUSTED,
            "LIMIT_EXCEEDED",
            "2000 rows, at most 1024",
            id="BYTES rows",
        ),
        pytest.param(
            raw(ROWS, "FP32", parameters={"normalise": option(bool_param=True)}),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "'normalise' is not known here: there are normalize",
            id="unknown parameter",
        ),
        pytest.param(
            raw(ROWS, "FP32", parameters={"normalize": option(string_param="yes")}),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "is a string_param, expected a bool_param",
            id="parameter's type",
        ),
        pytest.param(
            raw(ROWS, "FP32", parameters={"dtype": option(string_param="float16")}),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "expected one of FP16",
            id="output datatype",
        ),
        pytest.param(
            raw(ROWS, "FP32", outputs=[Request.InferRequestedOutputTensor(name="y")]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "no output 'y', only 'embedding'",
            id="output's name",
        ),
        pytest.param(
            raw(ROWS, "FP32", outputs=[CLASSES]), Code.UNIMPLEMENTED, "UNSUPPORTED", "classification", id="classes"
        ),
        pytest.param(
            Request(model_name="gate", inputs=[REGION]),
            Code.UNIMPLEMENTED,
            "UNSUPPORTED",
            "shared memory",
            id="shared memory",
        ),
    ],
)
def test_a_bad_request_is_refused_by_the_table(
    inference: Inference, request_: Any, code: grpc.StatusCode, reason: str, words: str
) -> None:
    """The codes, reasons and details of Midrib's own services."""
    with pytest.raises(grpc.RpcError, match=words) as caught:
        inference.ModelInfer(request_, timeout=10)
    assert (caught.value.code(), reason_of(caught.value)) == (code, reason)


def test_the_timeout_parameter_ends_a_request_that_waits(inference: Inference, gate: Any) -> None:
    """Microseconds, as Triton counts them: a request behind a busy device is dropped before it is computed."""
    busy = inference.ModelInfer.future(raw(np.full((1, 2), 13, np.float32), "FP32"), timeout=20)
    assert gate.passing.wait(10)
    late = inference.ModelInfer.future(raw(ROWS, "FP32", parameters={"timeout": option(int64_param=1)}), timeout=20)
    # The queue is looked at again once the device is free.
    assert inference.ServerLive(oip.ServerLiveRequest(), timeout=10).live
    gate.opened.set()
    assert (late.code(), busy.code()) == (Code.DEADLINE_EXCEEDED, Code.OK)


def test_statistics_count_what_every_protocol_asked(test_registry: Registry) -> None:
    """Rows and batches, and where their time went."""
    with (
        serving("gate", "linear", registry=test_registry) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        own: Any = embedding_pb2_grpc.EmbeddingServiceStub(opened)
        message = embedding_pb2.Input(tensor=encode_tensor(ROWS))
        own.Embed(embedding_pb2.EmbedRequest(backbone="gate", input=message), timeout=10)
        inference = Inference(opened)
        inference.ModelInfer(raw(ROWS, "FP32"), timeout=10)
        (listener,) = inference.ModelStatistics(oip.ModelStatisticsRequest(name="gate"), timeout=10).model_stats
        every = inference.ModelStatistics(oip.ModelStatisticsRequest(), timeout=10).model_stats
    assert (listener.inference_count, listener.execution_count, listener.inference_stats.success.count) == (6, 2, 2)
    assert listener.inference_stats.compute_infer.ns > 0
    assert [one.name for one in every] == [GATE, "test/embedding/linear"]


def test_the_index_lists_states(inference: Inference) -> None:
    """Ordered by name."""
    listener = inference.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=10).models
    assert [(one.name, one.state, one.reason) for one in listener] == [
        (GATE, "READY", ""),
        ("test/embedding/linear", "READY", ""),
    ]


def test_loading_needs_admin(inference: Inference) -> None:
    """As LoadBackbone does."""
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
    assert [one.name for one in left] == [GATE]


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
    asked = oip.RepositoryModelLoadRequest(model_name="linear", parameters=parameters)
    with (
        serving("gate", registry=test_registry, admin=True) as running,
        grpc.insecure_channel(running.address) as opened,
        pytest.raises(grpc.RpcError, match=words) as caught,
    ):
        Inference(opened).RepositoryModelLoad(asked, timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT


def test_reflection_describes_the_service_by_its_clients_names(channel: grpc.Channel) -> None:
    """So that a generic client calls it as it calls Triton."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService")
    (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=10)
    (serialized,) = answer.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    infer = next(method for method in file.service[0].method if method.name == "ModelInfer")
    assert (file.package, infer.input_type) == ("inference", ".inference.ModelInferRequest")

"""The unary calls, by plain generated stubs: the answers, and every refusal of the error table."""

from __future__ import annotations

import queue
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from midrib.registry import Registry
from midrib.server.testing import serving
from midrib.v1 import backbone_pb2, embedding_pb2, embedding_pb2_grpc, tensor_pb2
from midrib.wire import Array, MidribError, decode_tensor, encode_tensor, status_to_error

pytestmark = pytest.mark.usefixtures("front")

ROWS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


def request(rows: Array = ROWS, *, backbone: str = "gate", **fields: Any) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(
        backbone=backbone, input=embedding_pb2.Input(tensor=encode_tensor(rows)), **fields
    )


def refusal(error: Any) -> MidribError:
    """The error that the details carry, as any client may read it."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return status_to_error(status_pb2.Status.FromString(details))


def test_embed_answers_rows_revision_and_timing(embedding: Any, backbones: Any) -> None:
    """Every result names the revision that made it, and where its time went."""
    answer = embedding.Embed(request(), timeout=10)
    served = backbones.GetBackbone(backbone_pb2.GetBackboneRequest(name="gate"), timeout=10).backbone
    np.testing.assert_array_equal(decode_tensor(answer.embedding), ROWS * 2)
    assert answer.revision == served.revision
    assert answer.timing.total.ToNanoseconds() >= answer.timing.compute.ToNanoseconds() > 0


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_each_floating_type_goes_end_to_end(embedding: Any, name: str) -> None:
    """The input has the tensor's type, the embedding that of the option."""
    options = embedding_pb2.Options(dtype=getattr(tensor_pb2, f"DATA_TYPE_{name.upper()}"))
    rows = ROWS.astype(decode_tensor(encode_tensor(ROWS)).dtype if name == "float32" else np.dtype(name))
    got = decode_tensor(embedding.Embed(request(rows, options=options), timeout=10).embedding)
    assert (got.dtype.name, got.astype(np.float32).tolist()) == (name, (ROWS * 2).tolist())


def test_truncation_comes_before_normalisation(embedding: Any) -> None:
    """The features are truncated first, so that a truncated row has unit length too."""
    options = embedding_pb2.Options(dimensions=1, normalize=True)
    answer = embedding.Embed(request(options=options), timeout=10)
    assert decode_tensor(answer.embedding).tolist() == [[1], [1], [1]]


def test_no_rows_are_an_empty_embedding(embedding: Any) -> None:
    """An empty batch is valid."""
    answer = embedding.Embed(request(np.empty((0, 2), np.float32)), timeout=10)
    assert list(answer.embedding.shape) == [0, 2]


def test_backward_gives_the_input_gradient(embedding: Any) -> None:
    """The gate doubles, so its gradient is doubled too."""
    grad = np.ones_like(ROWS)
    call = embedding_pb2.BackwardRequest(backbone="gate", input=encode_tensor(ROWS), grad_embedding=encode_tensor(grad))
    np.testing.assert_array_equal(decode_tensor(embedding.Backward(call, timeout=10).grad_input), grad * 2)


def test_a_list_is_ordered_by_name(backbones: Any) -> None:
    """It has the values that a client needs for a call."""
    listed = backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=10).backbones
    assert [(described.name, described.num_features, list(described.input.tensor.shape)) for described in listed] == [
        ("test/embedding/gate", 2, [2]),
        ("test/embedding/linear", 3, [2]),
    ]
    assert all(
        described.state == backbone_pb2.BACKBONE_STATE_READY and described.limits.max_rows == 1024
        for described in listed
    )


def images(*encoded: bytes) -> embedding_pb2.Input:
    return embedding_pb2.Input(images=embedding_pb2.Images(encoded=encoded))


def raw(**tensor: Any) -> embedding_pb2.Input:
    return embedding_pb2.Input(tensor=tensor_pb2.Tensor(**tensor))


NARROW = embedding_pb2.Input(tensor=encode_tensor(ROWS[:, :1]))
INTEGERS = embedding_pb2.Input(tensor=encode_tensor(ROWS.astype(np.int64)))
MANY = embedding_pb2.Input(tensor=encode_tensor(np.zeros((1025, 2), np.float32)))
Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("call", "code", "reason", "words"),
    [
        pytest.param(
            {"backbone": "gat"},
            Code.NOT_FOUND,
            "BACKBONE_NOT_FOUND",
            "did you mean test/embedding/gate",
            id="near name",
        ),
        pytest.param(
            {"backbone": ""}, Code.NOT_FOUND, "BACKBONE_NOT_FOUND", "served here: test/embedding/gate", id="no name"
        ),
        pytest.param(
            {"revision": "0" * 64}, Code.FAILED_PRECONDITION, "REVISION_MISMATCH", "connect again", id="revision"
        ),
        pytest.param(
            {"input": images(b"x")},
            Code.FAILED_PRECONDITION,
            "WRONG_INPUT_KIND",
            "that, or name a backbone that takes images",
            id="kind",
        ),
        pytest.param(
            {"input": embedding_pb2.Input()},
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "the input is empty",
            id="no input",
        ),
        pytest.param({"input": NARROW}, Code.INVALID_ARGUMENT, "INVALID_INPUT", r"takes \[rows, 2\]", id="shape"),
        pytest.param(
            {"input": INTEGERS}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "is int64.*takes float32", id="dtype"
        ),
        pytest.param(
            {"input": raw(shape=[1, 2], data=b"12345678")},
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "unspecified",
            id="no dtype",
        ),
        pytest.param(
            {"input": raw(dtype=1, shape=[1, 2], data=b"")},
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "takes 8",
            id="bytes",
        ),
        pytest.param({"input": MANY}, Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", "1025 rows.*split it", id="rows"),
        pytest.param(
            {"options": embedding_pb2.Options(dimensions=3)},
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            r"has 1\.\.2",
            id="dimensions",
        ),
        pytest.param(
            {"options": embedding_pb2.Options(dtype=tensor_pb2.DATA_TYPE_INT64)},
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "int8 with a scale a row",
            id="output dtype",
        ),
    ],
)
def test_a_bad_call_is_refused_by_the_table(
    embedding: Any, call: dict[str, Any], code: grpc.StatusCode, reason: str, words: str
) -> None:
    """Code, reason and sentence are those of the design's table."""
    wrong = request()
    for name, value in call.items():
        wrong.ClearField(name)
        wrong.MergeFrom(embedding_pb2.EmbedRequest(**{name: value}))
    with pytest.raises(grpc.RpcError, match=words) as caught:
        embedding.Embed(wrong, timeout=10)
    assert (caught.value.code(), refusal(caught.value).reason) == (code, reason)


def test_an_unforeseen_fault_is_an_id_and_no_detail(embedding: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The text goes to the log, under the id that the caller gets."""
    poison = np.full((1, 2), 666, np.float32)
    with pytest.raises(grpc.RpcError, match="the server's log explains error") as caught:
        embedding.Embed(request(poison), timeout=10)
    error = refusal(caught.value)
    assert (error.reason, "secret" in error.message) == ("INTERNAL", False)
    assert error.message.rpartition(" ")[2] in caplog.text
    assert "secret detail of the device" in caplog.text


def test_a_deadline_ends_a_call(embedding: Any, gate: Any) -> None:
    """A call to a busy device does not hang."""
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        embedding.Embed(request(np.full((1, 2), 13, np.float32)), timeout=0.2)


def test_a_full_queue_answers_at_once_with_retry_info(gate: Any, test_registry: Registry) -> None:
    """Unary calls try for room and fail fast."""
    slow = request(np.full((1, 2), 13, np.float32))
    with (
        serving("gate", registry=test_registry, max_queue_items=1) as full,
        grpc.insecure_channel(full.address) as channel,
    ):
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        running = stub.Embed.future(slow, timeout=20)
        assert gate.passing.wait(10)
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        calls = [stub.Embed.future(slow, timeout=20) for _ in range(2)]
        for call in calls:
            call.add_done_callback(done.put)
        refused = done.get(timeout=10)
        gate.opened.set()
        assert (refused.code(), refusal(refused).retry_after) == (Code.RESOURCE_EXHAUSTED, 0.1)
        assert [call.code() for call in (running, *calls)].count(Code.OK) == 2


def test_health_knows_the_server_and_each_backbone(channel: grpc.Channel) -> None:
    """Ready means loaded and warmed."""
    health: Any = health_pb2_grpc.HealthStub(channel)
    services = ["", "test/embedding/gate"]
    states = [health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status for name in services]
    assert states == [health_pb2.HealthCheckResponse.SERVING] * 2


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    """A generic client needs no protos."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([question]), timeout=10)
    assert {service.name for service in answer.list_services_response.service} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "midrib.v1.BackboneService",
        "midrib.v1.EmbeddingService",
    }


@pytest.mark.parametrize("detail", ["ErrorInfo", "RetryInfo", "BadRequest"])
def test_reflection_knows_the_details_of_errors(channel: grpc.Channel, detail: str) -> None:
    """No message refers to these types, but a generic client has to print them."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"google.rpc.{detail}")
    (answer,) = stub.ServerReflectionInfo(iter([question]), timeout=10)
    assert answer.WhichOneof("message_response") == "file_descriptor_response"

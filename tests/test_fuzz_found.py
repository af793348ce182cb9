"""What the fuzz, and the reading for it, has found: each by a test of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from torch import Tensor, nn

from midrib.oip.v2 import inference_pb2 as oip
from midrib.registry import Registry, TensorInput, TextInput
from midrib.server._grpc.embedding_service import serve_embed_stream
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, tensor_pb2
from midrib.wire import Array, MidribError, StreamProtocolError, decode_tensor, encode_tensor, status_to_error

REGISTRY = Registry("found by fuzz")
EMBED = "/midrib.v1.EmbeddingService/Embed"
STREAM = "/midrib.v1.EmbeddingService/EmbedStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
GARBAGE = b"\xff\xff\xff no message"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Double(nn.Module):
    """Doubles; a row of -13s ends the thread that computes it."""

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == -13).any()):
            raise SystemExit
        return rows * 2


class Words(nn.Module):
    """Looks its ids up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 4, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.table(ids)
        return vectors.sum(1)


@REGISTRY(name="double", namespace="test/embedding", input=TensorInput((2,)))
def load_double() -> tuple[nn.Module, int]:
    return Double(), 2


@REGISTRY(name="words", namespace="text/embedding", input=TextInput(8))
def load_words() -> tuple[nn.Module, int]:
    return Words(), 4


class Fragile(nn.Module):
    """Doubles until a row of -13s comes: then neither this thread nor any other can run it."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def forward(self, rows: Tensor) -> Tensor:
        if self.broken:
            raise RuntimeError("the device is gone")
        if bool((rows == -13).any()):
            self.broken = True
            raise SystemExit
        return rows * 2


@REGISTRY(name="fragile", namespace="test/embedding", input=TensorInput((2,)))
def load_fragile() -> tuple[nn.Module, int]:
    return Fragile(), 2


@REGISTRY(name="unreadable", namespace="test/embedding", input=TensorInput((2,)))
def load_unreadable() -> tuple[nn.Module, int]:
    raise OSError("cannot read /srv/weights/secret.safetensors")


@REGISTRY(name="late", namespace="test/embedding", input=TensorInput((2,)))
def load_late() -> tuple[nn.Module, int]:
    """Loads once the test lets it."""
    LOADING.set()
    MAY_LOAD.wait(20)
    return Double(), 2


LOADING, MAY_LOAD = threading.Event(), threading.Event()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("double", "words", registry=REGISTRY, max_message_bytes=16 * 1024) as running:
        yield running


@pytest.fixture()
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as opened:
        yield opened


def request(rows: Array, backbone: str = "double", **options: Any) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(
        backbone=backbone,
        input=embedding_pb2.Input(tensor=encode_tensor(rows)),
        options=embedding_pb2.Options(**options),
    )


def call(channel: grpc.Channel, method: str, data: bytes) -> bytes:
    untyped: Any = channel.unary_unary(method)
    answer: bytes = untyped(data, timeout=20)
    return answer


def talk(channel: grpc.Channel, method: str, messages: list[bytes]) -> list[bytes]:
    untyped: Any = channel.stream_stream(method)
    return list(untyped(iter(messages), timeout=20))


def refusal(error: Any) -> MidribError:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return status_to_error(status_pb2.Status.FromString(details))


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(EMBED, id="embed"),
        pytest.param("/midrib.v1.EmbeddingService/Backward", id="backward"),
        pytest.param("/midrib.v1.BackboneService/GetBackbone", id="backbone"),
        pytest.param(INFER, id="infer"),
        pytest.param("/grpc.health.v1.Health/Check", id="health"),
    ],
)
def test_bytes_that_are_no_message_are_an_invalid_argument(channel: grpc.Channel, method: str) -> None:
    """Not UNKNOWN with a parser's exception in its details."""
    with pytest.raises(grpc.RpcError, match="could not parse the request") as caught:
        call(channel, method, GARBAGE)
    assert (caught.value.code(), refusal(caught.value).reason) == (INVALID, "INVALID_INPUT")


@pytest.mark.parametrize(
    ("method", "before"),
    [
        pytest.param(STREAM, [], id="first"),
        pytest.param(
            STREAM,
            [embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double")).SerializeToString()],
            id="after open",
        ),
        pytest.param("/inference.GRPCInferenceService/ModelStreamInfer", [], id="infer"),
        pytest.param("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", [], id="reflection"),
    ],
)
def test_a_stream_of_bytes_that_are_no_message_is_refused(
    channel: grpc.Channel, method: str, before: list[bytes]
) -> None:
    """The client's fault, so not INTERNAL."""
    with pytest.raises(grpc.RpcError, match="could not parse the request") as caught:
        talk(channel, method, [*before, GARBAGE])
    assert caught.value.code() is INVALID


def test_a_long_name_is_not_found_at_once(channel: grpc.Channel) -> None:
    """Nothing near is looked for (21 s for 50 MB, on the event loop), and the status fits into its headers."""
    asked = backbone_pb2.GetBackboneRequest(name="double/" * 2000)
    with pytest.raises(grpc.RpcError, match="no backbone 'double/double/") as caught:
        call(channel, "/midrib.v1.BackboneService/GetBackbone", asked.SerializeToString())
    assert (caught.value.code(), refusal(caught.value).reason) == (grpc.StatusCode.NOT_FOUND, "BACKBONE_NOT_FOUND")
    assert len(refusal(caught.value).message) < 500


def test_a_refusal_that_quotes_much_still_fits_into_its_headers(channel: grpc.Channel) -> None:
    """What a client sent comes back cut, under the status that it was given."""
    inputs = [oip.ModelInferRequest.InferInputTensor(name="é" * 3000) for _ in range(2)]
    asked = oip.ModelInferRequest(model_name="double", inputs=inputs)
    with pytest.raises(grpc.RpcError, match=r"the request has 2 inputs") as caught:
        call(channel, INFER, asked.SerializeToString())
    assert (caught.value.code(), refusal(caught.value).field) == (INVALID, "inputs")


def test_dimensions_beyond_63_bits_are_an_invalid_argument(channel: grpc.Channel) -> None:
    """The protocol has unsigned parameters, our own message does not."""
    asked = oip.ModelInferRequest(
        model_name="double",
        inputs=[oip.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, 2])],
        raw_input_contents=[bytes(8)],
        parameters={"dimensions": oip.InferParameter(uint64_param=2**63)},
    )
    with pytest.raises(grpc.RpcError, match="dimensions") as caught:
        call(channel, INFER, asked.SerializeToString())
    assert caught.value.code() is INVALID


@pytest.mark.parametrize("token", [-1, 100], ids=["negative", "beyond"])
def test_token_ids_outside_the_vocabulary_are_an_invalid_argument(channel: grpc.Channel, token: int) -> None:
    """They never reach the device: a GPU's assertion would end every other client's work as well."""
    asked = request(np.array([[1, token]]), "words")
    with pytest.raises(grpc.RpcError, match=rf"has the token id {token}, .* has 0..99") as caught:
        call(channel, EMBED, asked.SerializeToString())
    assert (caught.value.code(), refusal(caught.value).field) == (INVALID, "input.tensor.data")


def test_values_beyond_float32_are_infinite(channel: grpc.Channel) -> None:
    """As they are in process: no warning in the log for each, no error."""
    asked = request(np.array([[1e300, 1.0]]), dtype=tensor_pb2.DATA_TYPE_FLOAT16)
    answer = embedding_pb2.EmbedResponse.FromString(call(channel, EMBED, asked.SerializeToString()))
    assert decode_tensor(answer.embedding).tolist() == [[np.inf, 2.0]]


def test_an_answer_over_the_message_limit_spoils_its_item_alone(server: RunningServer, channel: grpc.Channel) -> None:
    """float64 out of float32 is twice the bytes; the stream goes on, and nothing stays in flight."""
    wide = embedding_pb2.Options(dtype=tensor_pb2.DATA_TYPE_FLOAT64)
    opened = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double", options=wide))
    items = [
        embedding_pb2.EmbedStreamRequest(
            item=embedding_pb2.Item(
                id=count, input=embedding_pb2.Input(tensor=encode_tensor(np.ones((count, 2), "f4")))
            )
        )
        for count in (1024, 1)
    ]
    sent = [message.SerializeToString() for message in [opened, *items]]
    answers = [embedding_pb2.EmbedStreamResponse.FromString(one) for one in talk(channel, STREAM, sent)]
    results = {answer.result.id: answer.result for answer in answers[1:]}
    assert status_to_error(results[1024].error).reason == "LIMIT_EXCEEDED"
    assert decode_tensor(results[1].embedding).tolist() == [[2.0, 2.0]]
    assert server.server.embedder.in_flight.held == 0


def test_a_unary_answer_over_the_message_limit_is_refused_before_a_device_makes_it(
    server: RunningServer, channel: grpc.Channel
) -> None:
    """With a reason, not by the transport."""
    served = server.server.catalogue.entry("double").ready().served
    accepted = served.batcher.counts.accepted
    asked = request(np.ones((1024, 2), np.float32), dtype=tensor_pb2.DATA_TYPE_FLOAT64)
    with pytest.raises(grpc.RpcError, match="split it") as caught:
        call(channel, EMBED, asked.SerializeToString())
    assert refusal(caught.value).reason == "LIMIT_EXCEEDED"
    assert served.batcher.counts.accepted == accepted


def test_items_of_a_lost_replica_are_counted(server: RunningServer, channel: grpc.Channel) -> None:
    """Else the backbone never counts as idle again, and can never leave for another."""
    with pytest.raises(grpc.RpcError, match="the replica that ran this item was lost"):
        call(channel, EMBED, request(np.full((1, 2), -13, np.float32)).SerializeToString())
    assert server.server.catalogue.entry("double").ready().served.idle


class UnwritableContext:
    """A call whose messages cannot be written."""

    def time_remaining(self) -> None:
        return None

    async def write(self, message: object) -> None:
        raise ConnectionError("cannot write")


async def only_open() -> AsyncIterator[embedding_pb2.EmbedStreamRequest]:
    """A client that opens its stream, sends an item, and then neither goes on nor ends."""
    rows = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
    yield embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=1, input=rows))
    await asyncio.Event().wait()


def test_a_stream_that_cannot_be_written_ends(server: RunningServer) -> None:
    """It does not wait for what will never be written, and holds nothing."""
    context: Any = UnwritableContext()
    opened = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))
    stream = serve_embed_stream(server.server.embedder, context, opened, only_open())
    with pytest.raises(ConnectionError, match="cannot write"):
        server.run(stream, timeout=20)
    assert server.server.embedder.in_flight.held == 0


def test_an_answer_that_cannot_be_put_down_is_that_items_error(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream ends; it does not wait for ever for an answer that nobody will write."""
    monkeypatch.setattr("midrib.server._calls.embedder.apply_options", None)
    opened = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))
    rows = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
    item = embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=1, input=rows))
    _, answer = talk(channel, STREAM, [opened.SerializeToString(), item.SerializeToString()])
    assert status_to_error(embedding_pb2.EmbedStreamResponse.FromString(answer).result.error).reason == "INTERNAL"


class SlowContext:
    """A call that notes whether a message was given up while it was written."""

    def __init__(self) -> None:
        self.written: list[str | None] = []

    def time_remaining(self) -> None:
        return None

    async def write(self, message: embedding_pb2.EmbedStreamResponse) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        self.written.append(message.WhichOneof("message"))


async def opened_twice() -> AsyncIterator[embedding_pb2.EmbedStreamRequest]:
    yield embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))


def test_a_message_is_written_before_its_stream_is_refused(server: RunningServer) -> None:
    """gRPC loses the status of a call that is ended in the middle of its first message: the client would hang."""
    context: Any = SlowContext()
    opened = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))
    stream = serve_embed_stream(server.server.embedder, context, opened, opened_twice())
    with pytest.raises(StreamProtocolError, match="a stream is opened once"):
        server.run(stream, timeout=20)
    assert context.written == ["opened"]


def test_a_backbone_whose_replica_cannot_be_replaced_says_so() -> None:
    """Its items fail as retriable and its health is NOT_SERVING; they do not wait for a device that will not come."""
    killer, next_one = (request(np.full((1, 2), value, np.float32), "fragile") for value in (-13, 1))
    with serving("fragile", registry=REGISTRY) as own, grpc.insecure_channel(own.address) as to_own:
        with pytest.raises(grpc.RpcError, match="the replica that ran this item was lost"):
            call(to_own, EMBED, killer.SerializeToString())
        with pytest.raises(grpc.RpcError, match="could not be replaced") as caught:
            call(to_own, EMBED, next_one.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        health: Any = health_pb2_grpc.HealthStub(to_own)
        asked = health_pb2.HealthCheckRequest(service="test/embedding/fragile")
        assert health.Check(asked, timeout=20).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_why_a_backbone_failed_to_load_is_for_the_log() -> None:
    """A loader's exception may name files; clients get an error id."""
    with serving(registry=REGISTRY, admin=True) as own, grpc.insecure_channel(own.address) as channel:
        backbones: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="log explains error"):
            backbones.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="unreadable"), timeout=20)
        (listener,) = backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=20).backbones
        assert listener.state == backbone_pb2.BACKBONE_STATE_FAILED
        assert "log explains error" in listener.error
        with pytest.raises(grpc.RpcError, match="log explains error") as caught:
            call(channel, EMBED, request(np.ones((1, 2)), "unreadable").SerializeToString())
        assert "secret" not in listener.error + str(caught.value.details())


def test_unloading_waits_for_the_loading_of_the_same_name() -> None:
    """Else what is loaded at last stands under no name, and its thread never ends."""
    with serving(registry=REGISTRY, admin=True) as own, grpc.insecure_channel(own.address) as channel:
        backbones: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        loading = backbones.LoadBackbone.future(backbone_pb2.LoadBackboneRequest(name="late"), timeout=20)
        assert LOADING.wait(20)
        unloading = backbones.UnloadBackbone.future(backbone_pb2.UnloadBackboneRequest(name="late"), timeout=20)
        backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=20)
        MAY_LOAD.set()
        loading.result()
        unloading.result()
        assert not backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=20).backbones
    assert not [
        thread.name for thread in threading.enumerate() if thread.name.startswith("replica-test/embedding/late")
    ]

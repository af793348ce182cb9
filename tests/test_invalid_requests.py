"""Requests that the fuzz, and the reading for it, has found: each by its own test."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from midrib.oip.v2 import inference_pb2 as oip
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, embedding_pb2, tensor_pb2
from midrib.wire import decode_tensor, encode_tensor, status_to_error
from tests.invalid_requests import (
    EMBED,
    GARBAGE,
    INFER,
    INVALID,
    REGISTRY,
    STREAM,
    call,
    refusal,
    request,
    talk,
)


@pytest.fixture(scope="module")
def server(front: str) -> Iterator[RunningServer]:
    with serving("double", "words", registry=REGISTRY, max_message_bytes=16 * 1024) as running:
        yield running


@pytest.fixture()
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as opened:
        yield opened


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
    """The status is not UNKNOWN with a parser's exception in its details."""
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
    sent_request = backbone_pb2.GetBackboneRequest(name="double/" * 2000)
    with pytest.raises(grpc.RpcError, match="no backbone 'double/double/") as caught:
        call(channel, "/midrib.v1.BackboneService/GetBackbone", sent_request.SerializeToString())
    assert (caught.value.code(), refusal(caught.value).reason) == (grpc.StatusCode.NOT_FOUND, "BACKBONE_NOT_FOUND")
    assert len(refusal(caught.value).message) < 500


def test_a_refusal_that_quotes_much_still_fits_into_its_headers(channel: grpc.Channel) -> None:
    """The error quotes the start of the client's value, and keeps its status."""
    inputs = [oip.ModelInferRequest.InferInputTensor(name="é" * 3000) for _ in range(2)]
    sent_request = oip.ModelInferRequest(model_name="double", inputs=inputs)
    with pytest.raises(grpc.RpcError, match=r"the request has 2 inputs") as caught:
        call(channel, INFER, sent_request.SerializeToString())
    assert (caught.value.code(), refusal(caught.value).field) == (INVALID, "inputs")


def test_dimensions_beyond_63_bits_are_an_invalid_argument(channel: grpc.Channel) -> None:
    """The protocol has unsigned parameters, our own message does not."""
    sent_request = oip.ModelInferRequest(
        model_name="double",
        inputs=[oip.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, 2])],
        raw_input_contents=[bytes(8)],
        parameters={"dimensions": oip.InferParameter(uint64_param=2**63)},
    )
    with pytest.raises(grpc.RpcError, match="dimensions") as caught:
        call(channel, INFER, sent_request.SerializeToString())
    assert caught.value.code() is INVALID


@pytest.mark.parametrize("token", [-1, 100], ids=["negative", "beyond"])
def test_token_ids_outside_the_vocabulary_are_an_invalid_argument(channel: grpc.Channel, token: int) -> None:
    """They never reach the device: a GPU's assertion would end every other client's work as well."""
    sent_request = request(np.array([[1, token]]), "words")
    with pytest.raises(grpc.RpcError, match=rf"has the token id {token}, .* has 0..99") as caught:
        call(channel, EMBED, sent_request.SerializeToString())
    assert (caught.value.code(), refusal(caught.value).field) == (INVALID, "input.tensor.data")


def test_values_beyond_float32_are_infinite(channel: grpc.Channel) -> None:
    """As they are in process: no warning in the log for each, no error."""
    sent_request = request(np.array([[1e300, 1.0]]), dtype=tensor_pb2.DATA_TYPE_FLOAT16)
    answer = embedding_pb2.EmbedResponse.FromString(call(channel, EMBED, sent_request.SerializeToString()))
    assert decode_tensor(answer.embedding).tolist() == [[np.inf, 2.0]]


def test_an_answer_over_the_message_limit_spoils_its_item_alone(server: RunningServer, channel: grpc.Channel) -> None:
    """float64 out of float32 is twice the bytes; the stream continues, and nothing stays in flight."""
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
    answers = [embedding_pb2.EmbedStreamResponse.FromString(response) for response in talk(channel, STREAM, sent)]
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
    sent_request = request(np.ones((1024, 2), np.float32), dtype=tensor_pb2.DATA_TYPE_FLOAT64)
    with pytest.raises(grpc.RpcError, match="split it") as caught:
        call(channel, EMBED, sent_request.SerializeToString())
    assert refusal(caught.value).reason == "LIMIT_EXCEEDED"
    assert served.batcher.counts.accepted == accepted

"""ModelStreamInfer: order, one bad request among good ones, back-pressure, going away."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.oip.v2 import inference_pb2 as oip
from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving


def asking(request_id: str, *values: float, model: str = "gate", **fields: Any) -> oip.ModelInferRequest:
    row = np.array([values], np.float32)
    tensor = oip.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=row.shape)
    return oip.ModelInferRequest(
        id=request_id, model_name=model, inputs=[tensor], raw_input_contents=[row.tobytes()], **fields
    )


class Conversation:
    """A stream that the test drives request by request."""

    def __init__(self, channel: grpc.Channel, *first: oip.ModelInferRequest) -> None:
        self._requests: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
        stream: Any = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelStreamInferResponse.FromString,
        )
        self.call = stream(iter(self._requests.get, None), timeout=20)
        self.send(*first)

    def send(self, *requests: oip.ModelInferRequest) -> None:
        for request in requests:
            self._requests.put(request)

    def finish(self) -> list[oip.ModelStreamInferResponse]:
        self._requests.put(None)
        return list(self.call)


def listener(response: oip.ModelStreamInferResponse) -> tuple[str, str, list[float]]:
    """The id, the reason of the error if there is one, and the row if there is one."""
    answer = response.infer_response
    row = np.frombuffer(b"".join(answer.raw_output_contents), np.float32).tolist()
    return answer.id, answer.parameters["reason"].string_param, row


def test_answers_come_in_the_order_of_the_requests(channel: grpc.Channel, gate: Any) -> None:
    """The requests may be for any models; a slow one delays those behind it, as with Triton."""
    talk = Conversation(channel, asking("a", 13, 1), asking("b", 1, 2), asking("c", 1, 2, model="linear"))
    assert gate.passing.wait(10)
    gate.opened.set()
    first, second, third = talk.finish()
    assert [listener(first), listener(second)] == [("a", "", [26, 2]), ("b", "", [2, 4])]
    assert (third.infer_response.id, list(third.infer_response.outputs[0].shape)) == ("c", [1, 3])


def test_a_bad_request_spoils_only_itself(channel: grpc.Channel) -> None:
    """Its response carries the error: a sentence, and the reason as a parameter."""
    talk = Conversation(
        channel, asking("a", 1, 2), asking("b", 1), asking("c", 666, 0), asking("d", 1, model="x"), asking("e", 3, 4)
    )
    answers = talk.finish()
    assert [listener(response) for response in answers] == [
        ("a", "", [2, 4]),
        ("b", "INVALID_INPUT", []),
        ("c", "INTERNAL", []),
        ("d", "BACKBONE_NOT_FOUND", []),
        ("e", "", [6, 8]),
    ]
    assert "takes [rows, 2]" in answers[1].error_message
    assert "secret" not in answers[2].error_message


def test_a_final_response_is_marked_for_who_asks(channel: grpc.Channel) -> None:
    """Triton's mark of a request's last response: here each has one."""
    marked = {"triton_enable_empty_final_response": oip.InferParameter(bool_param=True)}
    (answer,) = Conversation(channel, asking("a", 1, 2, parameters=marked)).finish()
    assert answer.infer_response.parameters["triton_final_response"].bool_param


@pytest.fixture()
def narrow(test_registry: Registry) -> Iterator[RunningServer]:
    """A server with room for one queued item, and four in flight a stream."""
    with serving("gate", registry=test_registry, max_stream_items=4, max_queue_items=1) as running:
        yield running


def test_a_stream_waits_for_room(narrow: RunningServer, gate: Any) -> None:
    """If a unary call would be refused, a stream's requests wait, and each is answered in the end."""
    with grpc.insecure_channel(narrow.address) as channel:
        talk = Conversation(channel, asking("0", 13, 0))
        assert gate.passing.wait(10)
        talk.send(*(asking(str(number), number, 0) for number in range(1, 8)))
        gate.opened.set()
        assert [listener(response)[2] for response in talk.finish()] == [
            [26, 0],
            *([2 * number, 0] for number in range(1, 8)),
        ]


def test_a_server_that_stops_answers_the_requests_that_it_has_read(test_registry: Registry, gate: Any) -> None:
    """Then it ends the stream with UNAVAILABLE, because this protocol has no message for it."""
    with serving("gate", registry=test_registry) as running, grpc.insecure_channel(running.address) as channel:
        talk = Conversation(channel, asking("a", 13, 1))
        assert gate.passing.wait(10)
        stopping = running.start(running.server.stop(10.0))
        running.run(running.server.catalogue.closing.wait())
        gate.opened.set()
        assert listener(next(talk.call)) == ("a", "", [26, 2])
        with pytest.raises(grpc.RpcError, match="open another stream elsewhere") as caught:
            next(talk.call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        stopping.result(20)


def test_a_cancelled_stream_leaves_nothing_behind(channel: grpc.Channel, server: RunningServer, gate: Any) -> None:
    """The reservations of its items are released."""
    talk = Conversation(channel, asking("a", 13, 1), asking("b", 1, 2))
    assert gate.passing.wait(10)
    talk.call.cancel()
    gate.opened.set()
    list(Conversation(channel, asking("c", 1, 2)).finish())
    assert server.server.embedder.in_flight.held == 0

"""A live server under fuzz, and the checks of its answers."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from midrib.oip.v2 import inference_pb2 as oip
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2
from midrib.wire import decode_tensor
from tests.fuzz_backbones import REGISTRY, Double
from tests.fuzz_messages import EMBED, INFER_STREAM, ROWS, Call, Conversation

_LEAKS = re.compile(r"Traceback|Unexpected <|secret|shadow|site-packages|object at 0x|\.py\b|\w(Error|Exception)\b")
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # by the inference protocol's `timeout`
}


class Subject:
    """A live server under fuzz."""

    def __init__(self, server: RunningServer, channel: grpc.Channel) -> None:
        self.server = server
        self.channel: Any = channel

    def check_call(self, call: Call) -> None:
        """The call ends with a status that is its own fault, or with an answer."""
        raised = Double.raised
        try:
            self.channel.unary_unary(call.method)(call.data, timeout=20)
        except grpc.RpcError as error:
            check_refusal(error, poisoned=Double.raised > raised, detailed="health" not in call.method)
        self.check_unharmed()

    def check_conversation(self, conversation: Conversation) -> None:
        """The stream ends with a status, and until then each item has one answer."""
        raised, answers = Double.raised, []
        sent, gone = threading.Event(), threading.Event()

        def send() -> Iterator[bytes]:
            yield from conversation.messages
            sent.set()
            if conversation.ending == "unsent":
                gone.wait(20)

        stream = self.channel.stream_stream(conversation.method)(send(), timeout=20)
        if conversation.ending == "unsent" and stream.add_callback(sent.set):
            sent.wait(20)
            stream.cancel()
            gone.set()
        try:
            for answer in stream:
                answers.append(answer)
                if conversation.ending == "unread":
                    break
        except grpc.RpcError as error:
            if stream.code() is not grpc.StatusCode.CANCELLED or conversation.ending != "unsent":
                check_refusal(error, poisoned=Double.raised > raised)
        else:
            if conversation.ending == "ended":
                check_all_answered(conversation, answers)
        stream.cancel()
        check_answers(conversation, answers, poisoned=Double.raised > raised)
        self.check_unharmed()

    def check_unharmed(self) -> None:
        """A good request is answered rightly, nothing is left in flight, and the queues' books balance."""
        good = embedding_pb2.EmbedRequest(backbone="double", input=embedding_pb2.Input(tensor=ROWS))
        embed = self.channel.unary_unary(EMBED, response_deserializer=embedding_pb2.EmbedResponse.FromString)
        for _ in range(2000):
            answer = embed(good.SerializeToString(), timeout=20)
            assert decode_tensor(answer.embedding).tolist() == [[2, 4], [6, 8]]
            if self.settled:
                return
        pytest.fail("items stay in flight")

    @property
    def settled(self) -> bool:
        batchers = [served.batcher for served in self.server.server.catalogue.served()]
        waiting = [(batcher.queued_items, batcher.queued_cost) for batcher in batchers]
        idle = all(served.idle for served in self.server.server.catalogue.served())
        return idle and not any(map(any, waiting)) and self.server.server.embedder.in_flight.held == 0


def check_refusal(error: Any, *, poisoned: bool, detailed: bool = True) -> None:
    """A status of the design's table, with the reason in its details, and nothing of the inside in its text."""
    allowed = _REFUSALS | {grpc.StatusCode.INTERNAL} if poisoned else _REFUSALS
    assert error.code() in allowed, (error.code(), error.details())
    assert not _LEAKS.search(error.details() or "")
    if detailed:
        check_status(status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]))


def check_status(status: status_pb2.Status) -> None:
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert (info.domain, bool(info.reason)) == ("midrib", True)
    assert not _LEAKS.search(status.message)


def check_answers(conversation: Conversation, answers: list[bytes], *, poisoned: bool) -> None:
    """Refusals inside a stream are as good as those of a call."""
    for answer in answers:
        if conversation.method == INFER_STREAM:
            assert not _LEAKS.search(oip.ModelStreamInferResponse.FromString(answer).error_message)
        else:
            result = embedding_pb2.EmbedStreamResponse.FromString(answer).result
            if result.HasField("error"):
                check_status(result.error)
                assert poisoned or result.error.code != grpc.StatusCode.INTERNAL.value[0]


def check_all_answered(conversation: Conversation, answers: list[bytes]) -> None:
    """A stream that ended well has answered every item, and nothing else."""
    if conversation.method == INFER_STREAM:
        assert len(answers) == len(conversation.messages)
        return
    sent = sorted(
        embedding_pb2.EmbedStreamRequest.FromString(response).item.id for response in conversation.messages[1:]
    )
    responses = [embedding_pb2.EmbedStreamResponse.FromString(response) for response in answers]
    assert sorted(response.result.id for response in responses if response.HasField("result")) == sent


@contextmanager
def subjected() -> Iterator[Subject]:
    """A server to fuzz, and a channel to it."""
    with (
        serving("double", "words", "picture", registry=REGISTRY) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        yield Subject(running, channel)

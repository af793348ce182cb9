"""Any message to any gRPC method of a live server: always a status, and the server is as good as before.

The grammar is the protos' own: a valid request, a few of its fields, anywhere below, set to something else, and its
bytes damaged. benchmarks/soak/fuzz.py runs the same for as long as one likes.
"""

from __future__ import annotations

import io
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from midrib.oip.v2 import inference_pb2 as oip
from midrib.registry import ImageInput, Registry, TensorInput, TextInput
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, embedding_pb2, tensor_pb2
from midrib.wire import decode_tensor, encode_tensor

EMBED = "/midrib.v1.EmbeddingService/Embed"
STREAM = "/midrib.v1.EmbeddingService/EmbedStream"
INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
POISON = 666.0
REGISTRY = Registry("fuzz")
FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


class Double(nn.Module):
    """Doubles; a row of poison raises."""

    raised = 0

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == POISON).any()):
            Double.raised += 1
            raise RuntimeError("secret of the module, /etc/shadow")
        return rows * 2


class Tokens(NamedTuple):
    ids: list[int]
    truncated: bool


class Words(nn.Module):
    """The sum of the words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 4, padding_idx=0)

    def tokenizer(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([1 + sum(word.encode()) % 99 for word in text.split()][:8], False) for text in texts]

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.table(ids)
        return vectors.sum(1)


class Picture(nn.Module):
    """The mean of each channel."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))


@REGISTRY(name="double", namespace="test/embedding", input=TensorInput((2,)))
def load_double() -> tuple[nn.Module, int]:
    return Double(), 2


@REGISTRY(name="words", namespace="text/embedding", input=TextInput(8))
def load_words() -> tuple[nn.Module, int]:
    return Words(), 4


@REGISTRY(name="picture", namespace="image/embedding", input=ImageInput(8))
def load_picture() -> tuple[nn.Module, int]:
    return Picture(), 3


# --- the grammar ---


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), (200, 100, 50)).save(file, "PNG")
    return file.getvalue()


NAMES = ["double", "test/embedding/double", "words", "picture", "", "dubble", "../../etc/passwd", "é" * 3000]
NAMES += ["grpc://127.0.0.1:1/double", "images", "texts", "input", "embedding", "FP32", "FP16", "BYTES", "INT64"]
ROWS = encode_tensor(np.array([[1, 2], [3, 4]], np.float32))
POISONED = encode_tensor(np.full((1, 2), POISON, np.float32))
IDS = encode_tensor(np.array([[5, 6, 0]]))
INPUTS = [
    ("double", embedding_pb2.Input(tensor=ROWS)),
    ("double", embedding_pb2.Input(tensor=POISONED)),
    ("words", embedding_pb2.Input(texts=embedding_pb2.Texts(texts=["good morning", ""]))),
    ("words", embedding_pb2.Input(tensor=IDS)),
    ("picture", embedding_pb2.Input(images=embedding_pb2.Images(encoded=[picture()]))),
    ("words", embedding_pb2.Input(audio=embedding_pb2.AudioClips(clips=[ROWS], rate=16000))),
]
OPTIONS = embedding_pb2.Options(dtype=tensor_pb2.DATA_TYPE_FLOAT64, normalize=True, dimensions=2)


def infer(model: str, name: str, datatype: str, shape: list[int], raw: bytes | None, **typed: Any) -> Message:
    contents = oip.InferTensorContents(**typed) if typed else None
    tensor = oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, contents=contents)
    return oip.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=None if raw is None else [raw], id="7"
    )


INFERS = [
    infer("double", "input", "FP32", [2, 2], bytes(16)),
    infer("double", "input", "FP32", [1, 2], None, fp32_contents=[1, 2]),
    infer("words", "input", "INT64", [1, 2], None, int64_contents=[5, 6]),
    infer("words", "texts", "BYTES", [1], struct.pack("<I", 4) + b"good"),
    infer("words", "texts", "BYTES", [2, 1], None, bytes_contents=[b"good", b"morning"]),
    infer("picture", "images", "BYTES", [1, 1], None, bytes_contents=[picture()]),
]
VALID: dict[str, list[Any]] = {
    EMBED: [embedding_pb2.EmbedRequest(backbone=name, input=one, options=OPTIONS) for name, one in INPUTS],
    "/midrib.v1.EmbeddingService/Backward": [
        embedding_pb2.BackwardRequest(backbone="double", input=ROWS, grad_embedding=ROWS),
        embedding_pb2.BackwardRequest(backbone="words", input=IDS, grad_embedding=ROWS),
    ],
    "/midrib.v1.BackboneService/ListBackbones": [backbone_pb2.ListBackbonesRequest()],
    "/midrib.v1.BackboneService/GetBackbone": [backbone_pb2.GetBackboneRequest(name="double")],
    "/midrib.v1.BackboneService/LoadBackbone": [backbone_pb2.LoadBackboneRequest(name="double")],
    "/midrib.v1.BackboneService/UnloadBackbone": [backbone_pb2.UnloadBackboneRequest(name="double")],
    "/inference.GRPCInferenceService/ModelInfer": INFERS,
    "/inference.GRPCInferenceService/ModelReady": [oip.ModelReadyRequest(name="double")],
    "/inference.GRPCInferenceService/ModelMetadata": [oip.ModelMetadataRequest(name="words")],
    "/inference.GRPCInferenceService/ModelConfig": [oip.ModelConfigRequest(name="picture")],
    "/inference.GRPCInferenceService/ModelStatistics": [oip.ModelStatisticsRequest()],
    "/inference.GRPCInferenceService/RepositoryIndex": [oip.RepositoryIndexRequest()],
    "/inference.GRPCInferenceService/RepositoryModelLoad": [oip.RepositoryModelLoadRequest(model_name="double")],
    "/grpc.health.v1.Health/Check": [health_pb2.HealthCheckRequest()],
}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-2, 12),
}


def scalars(field: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type: the ends of its range, what means something somewhere, and anything else."""
    if field.cpp_type in _INTEGERS:
        least, most = _INTEGERS[field.cpp_type]
        return st.integers(0, 4) | st.sampled_from([least, most]) | st.integers(least, most)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return st.floats(width=32) | st.just(POISON)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=40) | st.sampled_from([ROWS.data, POISONED.data, picture(), picture()[:-20]])
    return st.sampled_from(NAMES) | st.text(max_size=20)


def disturb(draw: st.DrawFn, message: Any) -> None:
    """Set one field, of the message or anywhere below, to something else."""
    fields = message.DESCRIPTOR.fields
    if not len(fields):
        return
    field = draw(st.sampled_from(list(fields)))
    nested = field.message_type is not None
    if draw(st.integers(0, 9)) == 0:
        message.ClearField(field.name)
    elif nested and field.message_type.GetOptions().map_entry:
        entry = getattr(message, field.name)[draw(st.sampled_from(["dimensions", "dtype", "timeout", "seed", "x"]))]
        disturb(draw, entry)
    elif field.is_repeated:
        disturb_list(draw, getattr(message, field.name), field)
    elif nested:
        below = getattr(message, field.name)
        below.SetInParent()
        disturb(draw, below)
    else:
        setattr(message, field.name, draw(scalars(field)))


def disturb_list(draw: st.DrawFn, values: Any, field: Any) -> None:
    kind = draw(st.sampled_from(["more", "fewer", "other", "other"]))
    if kind == "fewer" and values:
        del values[draw(st.integers(0, len(values) - 1))]
    elif field.message_type is not None:
        disturb(draw, values[0] if kind == "other" and values else values.add())
    elif kind == "other" and values:
        values[draw(st.integers(0, len(values) - 1))] = draw(scalars(field))
    else:
        values.extend(draw(st.lists(scalars(field), max_size=12)))


@st.composite
def requests(draw: st.DrawFn, valid: list[Any]) -> bytes:
    """The bytes of a valid request, of one disturbed in up to three places, or of one that is no message."""
    message = type(chosen := draw(st.sampled_from(valid)))()
    message.CopyFrom(chosen)
    for _ in range(draw(st.integers(0, 3))):
        disturb(draw, message)
    data = bytearray(message.SerializeToString())
    damage = draw(st.sampled_from(["none", "none", "none", "cut", "flip", "insert", "all"]))
    place = draw(st.integers(0, len(data)))
    if damage == "cut":
        del data[place:]
    elif damage == "flip" and place < len(data):
        data[place] ^= 1 << draw(st.integers(0, 7))
    elif damage == "insert":
        data[place:place] = draw(st.binary(max_size=8))
    elif damage == "all":
        data = bytearray(draw(st.binary(max_size=60)))
    return bytes(data)


class Call(NamedTuple):
    """One unary call."""

    method: str
    data: bytes


class Conversation(NamedTuple):
    """One stream: what is sent, and how it ends.

    ending: "ended" by half-close and read to its end, "unsent" once all is handed over, "unread" after one answer.
    """

    method: str
    messages: list[bytes]
    ending: str


@st.composite
def calls(draw: st.DrawFn) -> Call:
    method = draw(st.sampled_from(sorted(VALID)))
    return Call(method, draw(requests(VALID[method])))


def message(**fields: Any) -> embedding_pb2.EmbedStreamRequest:
    return embedding_pb2.EmbedStreamRequest(**fields)


OPENS = [message(open=embedding_pb2.Open(backbone=name)) for name in ("double", "words", "picture")]
ITEMS = [
    message(item=embedding_pb2.Item(id=number, input=one)) for number, (_, one) in enumerate(INPUTS) for _ in range(2)
]


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    ending = draw(st.sampled_from(["ended", "ended", "unsent", "unread"]))
    if draw(st.booleans()):
        return Conversation(INFER_STREAM, draw(st.lists(requests(INFERS), max_size=6)), ending)
    opened = [draw(st.sampled_from(OPENS)).SerializeToString()] if draw(st.integers(0, 4)) else []
    any_message = st.sampled_from(ITEMS).map(lambda one: one.SerializeToString()) | requests(ITEMS + OPENS)
    return Conversation(STREAM, opened + draw(st.lists(any_message, max_size=8)), ending)


# --- what must hold ---

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
    sent = sorted(embedding_pb2.EmbedStreamRequest.FromString(one).item.id for one in conversation.messages[1:])
    got = [embedding_pb2.EmbedStreamResponse.FromString(one) for one in answers]
    assert sorted(one.result.id for one in got if one.HasField("result")) == sent


@contextmanager
def subjected() -> Iterator[Subject]:
    """A server to fuzz, and a channel to it."""
    with (
        serving("double", "words", "picture", registry=REGISTRY) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        yield Subject(running, channel)


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    with subjected() as made:
        yield made


@FUZZ
@given(call=calls())
def test_any_unary_call_gets_a_status(subject: Subject, call: Call) -> None:
    """INTERNAL only where the module raised; whatever came, the server is unharmed."""
    subject.check_call(call)


@FUZZ
@given(conversation=conversations())
def test_any_conversation_gets_a_status(subject: Subject, conversation: Conversation) -> None:
    """Open, items, duplicates, garbage, half-close and cancel in any order."""
    subject.check_conversation(conversation)

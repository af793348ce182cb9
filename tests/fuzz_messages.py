"""Any message for any gRPC method: a valid request, a few of its fields set to something else, and its bytes damaged.

The grammar is that of the protos.
"""

import io
import struct
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from hypothesis import strategies as st
from PIL import Image

from midrib.oip.v2 import inference_pb2 as oip
from midrib.v1 import backbone_pb2, embedding_pb2, tensor_pb2
from midrib.wire import encode_tensor
from tests.fuzz_backbones import POISON

EMBED = "/midrib.v1.EmbeddingService/Embed"
STREAM = "/midrib.v1.EmbeddingService/EmbedStream"
INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


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
    EMBED: [embedding_pb2.EmbedRequest(backbone=name, input=value, options=OPTIONS) for name, value in INPUTS],
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
    """Return values of a field's type: the ends of its range, meaningful values, and any other."""
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
    """Change one field of the message, or of a message inside it."""
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
    """Draw the bytes of a valid request, of one changed in up to three places, or of no message at all."""
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
    """One stream: the messages that are sent, and how it ends.

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
    message(item=embedding_pb2.Item(id=number, input=value))
    for number, (_, value) in enumerate(INPUTS)
    for _ in range(2)
]


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    ending = draw(st.sampled_from(["ended", "ended", "unsent", "unread"]))
    if draw(st.booleans()):
        return Conversation(INFER_STREAM, draw(st.lists(requests(INFERS), max_size=6)), ending)
    opened = [draw(st.sampled_from(OPENS)).SerializeToString()] if draw(st.integers(0, 4)) else []
    any_message = st.sampled_from(ITEMS).map(lambda value: value.SerializeToString()) | requests(ITEMS + OPENS)
    return Conversation(STREAM, opened + draw(st.lists(any_message, max_size=8)), ending)

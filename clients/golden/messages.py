"""Examples of every message, with every field set at least once: their wire bytes are recorded."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

from midrib.v1.backbone_pb2 import (
    BACKBONE_STATE_DRAINING,
    BACKBONE_STATE_FAILED,
    BACKBONE_STATE_LOADING,
    BACKBONE_STATE_READY,
    Argument,
    AudioInput,
    Backbone,
    GetBackboneRequest,
    GetBackboneResponse,
    ImageInput,
    InputSpec,
    Limits,
    ListBackbonesRequest,
    ListBackbonesResponse,
    LoadBackboneRequest,
    LoadBackboneResponse,
    TensorInput,
    TextInput,
    UnloadBackboneRequest,
    UnloadBackboneResponse,
)
from midrib.v1.embedding_pb2 import (
    PRIORITY_BULK,
    PRIORITY_TRAINING,
    AudioClips,
    BackwardRequest,
    BackwardResponse,
    EmbedRequest,
    EmbedResponse,
    EmbedStreamRequest,
    EmbedStreamResponse,
    GoAway,
    Images,
    Input,
    Item,
    Open,
    Opened,
    Options,
    Result,
    SharedItem,
    SharedMemory,
    SharedTensor,
    Texts,
    Timing,
)
from midrib.v1.tensor_pb2 import (
    DATA_TYPE_BFLOAT16,
    DATA_TYPE_FLOAT32,
    DATA_TYPE_INT8,
    DATA_TYPE_INT64,
    DATA_TYPE_UINT8,
    DATA_TYPE_UNSPECIFIED,
    Tensor,
)

NAME = "image/classification/Übung-v1"  # a name is UTF-8 on the wire
REVISION = "0123456789abcdef" * 4
MAX_UINT64 = 2**64 - 1

ROWS = Tensor(dtype=DATA_TYPE_FLOAT32, shape=[1, 2], data=b"\x00\x00\x80\x3f\x00\x00\x00\xc0")
OPTIONS = Options(dtype=DATA_TYPE_BFLOAT16, normalize=True, dimensions=64)
PROMPTED = Options(prompt="query: ", prompt_name="passage")
ZERO_OPTIONS = Options(dtype=DATA_TYPE_UNSPECIFIED, dimensions=0)  # present but zero, which differs from absent
OPEN = Open(backbone=NAME, revision=REVISION, options=OPTIONS, priority=PRIORITY_BULK)
TIMING = Timing(queue=Duration(nanos=1500), compute=Duration(seconds=1, nanos=1), total=Duration(seconds=2))
LIMITS = Limits(max_message_bytes=2**26, max_rows=1024, max_stream_items=2**40)
REFUSED = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="the image is broken: send it again")
IMAGE = ImageInput(size=224, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], interpolation="bicubic", crop=0.875)
SQUASHED = ImageInput(size=384, mean=[0.5], std=[0.5], interpolation="bilinear", crop=1, squash=True)
BORDERED = ImageInput(size=512, mean=[0.5], std=[0.5], interpolation="bicubic", crop=1.15, width=384, border=True)
SCALED_ROWS = Tensor(dtype=DATA_TYPE_INT8, shape=[1, 2], data=b"\x7f\xff", row_scales=b"\x00\x00\x00\x3f")
ARGUMENTS = {
    "depth": Argument(int_value=-12),
    "dropout": Argument(double_value=0.1),
    "pretrained": Argument(bool_value=False),
    "variant": Argument(string_value="tiny"),
}


def _input(media: ImageInput | TextInput | AudioInput | None = None) -> InputSpec:
    """Return a spec whose tensor has one fixed and one free dimension."""
    spec = InputSpec(tensor=TensorInput(shape=[3, -1], dtype=DATA_TYPE_INT64))
    match media:
        case ImageInput():
            spec.image.CopyFrom(media)
        case TextInput():
            spec.text.CopyFrom(media)
        case AudioInput():
            spec.audio.CopyFrom(media)
    return spec


READY = Backbone(
    name=NAME,
    revision=REVISION,
    num_features=1280,
    input=_input(IMAGE),
    state=BACKBONE_STATE_READY,
    device="cuda:1",
    compute_dtype=DATA_TYPE_BFLOAT16,
    license="Apache-2.0",
    limits=LIMITS,
)


def messages() -> Iterator[tuple[str, Message]]:
    """Yield every case: its name and its message."""
    yield from _about_backbones()
    yield from _inputs()
    yield from _unary()
    yield from _streamed()


def _about_backbones() -> Iterator[tuple[str, Message]]:
    yield "list request", ListBackbonesRequest()
    yield "no backbones", ListBackbonesResponse()
    failed = Backbone(name="a/b/c", state=BACKBONE_STATE_FAILED, error="out of memory")
    yield "backbones", ListBackbonesResponse(backbones=[READY, failed])
    yield "loading", Backbone(name="a/b/c", state=BACKBONE_STATE_LOADING, input=_input(TextInput(max_tokens=256)))
    prompts = {"passage": "passage: "}
    yield "prompted", Backbone(name="a/b/c", default_prompt="query: ", prompts=prompts)
    yield "draining", Backbone(name="a/b/c", state=BACKBONE_STATE_DRAINING, input=_input(AudioInput(rate=16000)))
    yield "tensors only", InputSpec(tensor=TensorInput(shape=[784], dtype=DATA_TYPE_FLOAT32))
    pixels = TensorInput(shape=[3, 224, 224], dtype=DATA_TYPE_FLOAT32, other_dtypes=[DATA_TYPE_UINT8])
    yield "pixels too", InputSpec(tensor=pixels)
    yield "a squashed image", _input(SQUASHED)
    yield "a bordered image that is no square", _input(BORDERED)
    yield "get request", GetBackboneRequest(name=NAME)
    yield "get response", GetBackboneResponse(backbone=READY)
    yield "load request", LoadBackboneRequest(name=NAME, arguments=ARGUMENTS, pinned=True, dry_run=True)
    yield "replacing load request", LoadBackboneRequest(name=NAME, replace=True)
    yield "load response", LoadBackboneResponse(backbone=READY, unloaded=["a/b/c", "a/b/d"])
    yield "unload request", UnloadBackboneRequest(name=NAME)
    yield "unload response", UnloadBackboneResponse()


def _inputs() -> Iterator[tuple[str, Message]]:
    yield "no input", Input()
    yield "tensor input", Input(tensor=ROWS)
    yield "images input", Input(images=Images(encoded=[b"\x89PNG\r\n\x1a\n\x00", b"", b"\xff\xd8"]))
    yield "texts input", Input(texts=Texts(texts=["one", "", "süß \U0001f33f"]))
    yield "audio input", Input(audio=AudioClips(clips=[ROWS, ROWS], rate=16000))


def _full_request() -> EmbedRequest:
    tensor = Input(tensor=ROWS)
    return EmbedRequest(backbone=NAME, revision=REVISION, input=tensor, options=OPTIONS, priority=PRIORITY_TRAINING)


def _unary() -> Iterator[tuple[str, Message]]:
    tensor = Input(tensor=ROWS)
    yield "embed request", EmbedRequest(backbone=NAME, input=tensor)
    yield "embed request with all", _full_request()
    yield "embed request with zeros", EmbedRequest(backbone=NAME, revision="", input=tensor, options=ZERO_OPTIONS)
    yield "embed request with prompts", EmbedRequest(backbone=NAME, options=PROMPTED)
    yield "embed response", EmbedResponse(embedding=ROWS, revision=REVISION, timing=TIMING)
    yield "embed response of int8", EmbedResponse(embedding=SCALED_ROWS, revision=REVISION, timing=TIMING)
    yield "backward request", BackwardRequest(backbone=NAME, revision=REVISION, input=ROWS, grad_embedding=ROWS)
    yield "backward response", BackwardResponse(grad_input=ROWS, revision=REVISION, timing=TIMING)


def _streamed() -> Iterator[tuple[str, Message]]:
    item = Item(id=MAX_UINT64, input=Input(tensor=ROWS))
    opened = Opened(revision=REVISION, num_features=1280, limits=LIMITS)
    yield "open", EmbedStreamRequest(open=OPEN)
    yield "item", EmbedStreamRequest(item=item)
    yield "item zero", EmbedStreamRequest(item=Item())
    yield "opened", EmbedStreamResponse(opened=opened)
    yield "result", EmbedStreamResponse(result=Result(id=MAX_UINT64, embedding=ROWS, timing=TIMING))
    yield "refused item", EmbedStreamResponse(result=Result(id=1, error=REFUSED, timing=TIMING))
    yield "go away", EmbedStreamResponse(go_away=GoAway(reason="draining"))
    yield "open for shared memory", EmbedStreamRequest(open=Open(backbone=NAME, shared_memory=True))
    memory = SharedMemory(socket="midrib-0123456789abcdef", key=bytes(range(16)), size_bytes=1 << 24)
    yield "opened with shared memory", EmbedStreamResponse(opened=Opened(num_features=1280, shared_memory=memory))
    tensor = SharedTensor(dtype=DATA_TYPE_FLOAT32, shape=[16, 3, 224, 224], offset=1 << 20)
    shared = SharedItem(input=tensor, result_offset=64, result_bytes=128)
    yield "shared item", EmbedStreamRequest(item=Item(id=MAX_UINT64, shared=shared))
    yield "shared result", EmbedStreamResponse(result=Result(id=MAX_UINT64, shared=tensor, timing=TIMING))

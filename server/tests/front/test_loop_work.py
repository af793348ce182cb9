"""A large message is read, unpacked and written in threads: the event loop only moves its frames."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any, Self

import grpc
import numpy as np
import pytest
from torch import Tensor, nn

from midrib.oip.v2.inference_pb2 import InferTensorContents, ModelInferRequest
from midrib.registry import ImageInput, Registry, TensorInput
from midrib.server._admission.element_count import check_elements
from midrib.server._front.messages import Assembler
from midrib.server._grpc.codecs.fast import write_embed_response, write_result
from midrib.server._intake.large_messages import WireMessage
from midrib.server._large import LARGE_BYTES, joined
from midrib.server.testing import RunningServer, serving
from midrib.v1.embedding_pb2 import (
    BackwardRequest,
    EmbedRequest,
    EmbedStreamRequest,
    Images,
    Input,
    Item,
    Open,
    Options,
)
from midrib.v1.tensor_pb2 import DATA_TYPE_INT8
from midrib.wire import encode_tensor

REGISTRY = Registry("for large messages")
MIB = 2**20
WIDTH = 2**16
# These functions take time for each byte of an argument.
BYTEWISE: dict[CodeType, str] = {
    check_elements.__code__: "data",
    WireMessage.__init__.__code__: "data",
    Assembler._inflated.__code__: "packed",
    write_embed_response.__code__: "rows",
    write_result.__code__: "rows",
    joined.__code__: "parts",
}
# A message of 4 MiB has 64 frames of 64 KiB; a call takes as long as a few frames.
FRAMES = 64 + 16
CALLS_PER_FRAME = 200
EMBED, STREAM, BACKWARD = (f"/midrib.v1.EmbeddingService/{method}" for method in ("Embed", "EmbedStream", "Backward"))
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Mean(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.float().mean(dim=1, keepdim=True)


class Wide(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.expand(-1, WIDTH).contiguous()


class Picture(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))


@REGISTRY(name="mean", namespace="large", input=TensorInput((None,)))
def load_mean() -> tuple[nn.Module, int]:
    return Mean(), 1


@REGISTRY(name="wide", namespace="large", input=TensorInput((1,)))
def load_wide() -> tuple[nn.Module, int]:
    return Wide(), WIDTH


@REGISTRY(name="picture", namespace="large", input=ImageInput(8))
def load_picture() -> tuple[nn.Module, int]:
    return Picture(), 3


class LoopCalls:
    """The functions that the thread of a server's event loop calls.

    number: of the calls.  largest: the bytes of the largest argument of each function of `BYTEWISE`.
    """

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.number = 0
        self.largest: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._server.run(self._profile(self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.run(self._profile(None))

    def _note(self, frame: FrameType, event: str, _argument: Any) -> None:
        self.number += event in ("call", "c_call")
        if event == "call" and frame.f_code in BYTEWISE:
            name = frame.f_code.co_qualname
            size = bytes_of(frame.f_locals[BYTEWISE[frame.f_code]])
            self.largest[name] = max(size, self.largest.get(name, 0))

    async def _profile(self, note: Callable[[FrameType, str, Any], None] | None) -> None:
        sys.setprofile(note)


def bytes_of(argument: Any) -> int:
    """Return the bytes of a buffer, an array, or a sequence of buffers."""
    return sum(map(len, argument)) if isinstance(argument, list | tuple) else memoryview(argument).nbytes


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    settings: dict[str, Any] = {"front": "asyncio", "fronts": 1, "max_batch_elements": 2**24}
    with serving("mean", "wide", "picture", registry=REGISTRY, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.address, options) as opened:
        yield opened


def outcome(channel: grpc.Channel, method: str, requests: list[Any], *, packed: bool = False) -> tuple[str, int]:
    """Return the code of a call, and the bytes of its last answer."""
    messages = [request.SerializeToString() for request in requests]
    behaviour: Any = channel.stream_stream(method)
    call = behaviour(iter(messages), timeout=60, compression=grpc.Compression.Gzip if packed else None)
    sizes = [0]
    with suppress(grpc.RpcError):
        sizes += [len(answer) for answer in call]
    return call.code().name, sizes[-1]


WIDE_ROW = encode_tensor(np.zeros((1, MIB), np.float32))
PARTS = Images(encoded=[bytes(4096)] * 1000)
RAW = ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, MIB])
TYPED = ModelInferRequest.InferInputTensor(
    name="input",
    datatype="FP32",
    shape=[1, MIB],
    contents=InferTensorContents(fp32_contents=np.zeros(MIB, np.float32)),
)
ENCODED = ModelInferRequest.InferInputTensor(
    name="images", datatype="BYTES", shape=[1000], contents=InferTensorContents(bytes_contents=[bytes(4096)] * 1000)
)


def opened(name: str, item: Item) -> list[Any]:
    return [EmbedStreamRequest(open=Open(backbone=name)), EmbedStreamRequest(item=item)]


@pytest.mark.parametrize(
    ("method", "requests", "code"),
    [
        pytest.param(EMBED, [EmbedRequest(backbone="mean", input=Input(tensor=WIDE_ROW))], "OK", id="a tensor"),
        pytest.param(STREAM, opened("mean", Item(id=1, input=Input(tensor=WIDE_ROW))), "OK", id="an item of a stream"),
        pytest.param(
            EMBED, [EmbedRequest(backbone="picture", input=Input(images=PARTS))], "INVALID_ARGUMENT", id="images"
        ),
        pytest.param(EMBED, [EmbedRequest(backbone="x" * 4 * MIB)], "RESOURCE_EXHAUSTED", id="a name"),
        pytest.param(
            BACKWARD,
            [
                BackwardRequest(
                    backbone="mean", input=WIDE_ROW, grad_embedding=encode_tensor(np.ones((1, 1), np.float32))
                )
            ],
            "OK",
            id="a gradient",
        ),
        pytest.param(
            INFER,
            [ModelInferRequest(model_name="mean", inputs=[RAW], raw_input_contents=[bytes(4 * MIB)])],
            "OK",
            id="raw contents",
        ),
        pytest.param(INFER, [ModelInferRequest(model_name="mean", inputs=[TYPED])], "OK", id="typed contents"),
        pytest.param(
            INFER,
            [ModelInferRequest(model_name="picture", inputs=[ENCODED])],
            "INVALID_ARGUMENT",
            id="contents of bytes",
        ),
    ],
)
@pytest.mark.parametrize("packed", [pytest.param(False, id="plain"), pytest.param(True, id="gzip")])
def test_a_large_request_is_read_in_threads(
    server: RunningServer, channel: grpc.Channel, method: str, requests: list[Any], code: str, packed: bool
) -> None:
    """The loop calls a bounded number of functions for each frame, none of which reads the message."""
    outcome(channel, method, requests, packed=packed)  # imports and first uses
    with LoopCalls(server) as loop:
        assert outcome(channel, method, requests, packed=packed)[0] == code
    assert {name: size for name, size in loop.largest.items() if size > LARGE_BYTES} == {}
    assert loop.number < CALLS_PER_FRAME * FRAMES


ONES = encode_tensor(np.ones((16, 1), np.float32))
SHORT = ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[16, 1])


@pytest.mark.parametrize(
    ("method", "requests"),
    [
        pytest.param(EMBED, [EmbedRequest(backbone="wide", input=Input(tensor=ONES))], id="an embedding"),
        pytest.param(STREAM, opened("wide", Item(id=1, input=Input(tensor=ONES))), id="a row of a stream"),
        pytest.param(
            EMBED,
            [EmbedRequest(backbone="wide", input=Input(tensor=ONES), options=Options(normalize=True))],
            id="normalised",
        ),
        pytest.param(
            EMBED,
            [EmbedRequest(backbone="wide", input=Input(tensor=ONES), options=Options(dtype=DATA_TYPE_INT8))],
            id="int8",
        ),
        pytest.param(
            INFER,
            [ModelInferRequest(model_name="wide", inputs=[SHORT], raw_input_contents=[np.ones(16, "<f4").tobytes()])],
            id="raw contents",
        ),
    ],
)
def test_a_large_answer_is_written_in_threads(
    server: RunningServer, channel: grpc.Channel, method: str, requests: list[Any]
) -> None:
    """The loop sends its frames, and copies at most LARGE_BYTES in one function."""
    outcome(channel, method, requests)
    with LoopCalls(server) as loop:
        assert outcome(channel, method, requests)[1] >= 16 * WIDTH
    assert {name: size for name, size in loop.largest.items() if size > LARGE_BYTES} == {}
    assert loop.number < CALLS_PER_FRAME * FRAMES

"""Unary calls whose client never reads the answers: their bytes stay counted, and their connection is closed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.oip.v2 import inference_pb2
from midrib.registry import Registry
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor
from server.tests.grpc.http2_frames import (
    DATA,
    EMBED,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LAST_PING,
    NO_FLAGS,
    PREFACE,
    SETTINGS,
    Connection,
    frame,
    head,
    message,
)

pytestmark = pytest.mark.usefixtures("front")

INFER = b"/inference.GRPCInferenceService/ModelInfer"
BACKWARD = b"/midrib.v1.EmbeddingService/Backward"
INITIAL_WINDOW_SIZE = 4
UNREAD = PREFACE + frame(SETTINGS, NO_FLAGS, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
ROWS = np.ones((1024, 2), np.float32)
ITEM_BYTES = 2 * ROWS.nbytes
INPUT = embedding_pb2.Input(tensor=encode_tensor(ROWS))
CALL = embedding_pb2.EmbedRequest(backbone="linear", input=INPUT)
BACKWARD_CALL = embedding_pb2.BackwardRequest(
    backbone="gate", input=encode_tensor(ROWS), grad_embedding=encode_tensor(ROWS)
)
INFER_CALL = inference_pb2.ModelInferRequest(
    model_name="linear",
    inputs=[inference_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=ROWS.shape)],
    raw_input_contents=[ROWS.tobytes()],
)
METHODS = [
    pytest.param(EMBED, CALL.SerializeToString(), id="Embed"),
    pytest.param(BACKWARD, BACKWARD_CALL.SerializeToString(), id="Backward"),
    pytest.param(INFER, INFER_CALL.SerializeToString(), id="ModelInfer"),
]


@pytest.fixture()
def narrow(test_registry: Registry) -> Iterator[RunningServer]:
    """A server with room for few large items, whose clients have to read within 0.2 s."""
    limits: dict[str, Any] = {"max_in_flight_bytes": 4 * ITEM_BYTES, "max_unread_s": 0.2}
    with serving("linear", "gate", registry=test_registry, **limits) as running:
        yield running


def calls(path: bytes, request: bytes, count: int) -> Iterator[bytes]:
    """Yield the frames of unary calls."""
    for stream in range(1, 2 * count, 2):
        yield frame(HEADERS, END_HEADERS, stream, head(path=path))
        sent = message(request)
        yield from (frame(DATA, NO_FLAGS, stream, sent[at : at + 16_000]) for at in range(0, len(sent), 16_000))
        yield frame(DATA, END_STREAM, stream)


def code_of_a_call(channel: grpc.Channel) -> grpc.StatusCode:
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    try:
        stub.Embed(CALL, timeout=20)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


async def several_are_held(server: RunningServer) -> None:
    while server.server.embedder.in_flight.held < 2 * ITEM_BYTES:
        await asyncio.sleep(0.01)


async def everything_is_released(server: RunningServer) -> None:
    while server.server.embedder.in_flight.held:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("path", "request_"), METHODS)
def test_an_unread_answer_stays_counted_until_its_connection_is_closed(
    narrow: RunningServer, path: bytes, request_: bytes
) -> None:
    """They are released once the server has closed the connection."""
    with closing(Connection(narrow.address, UNREAD)) as connection, grpc.insecure_channel(narrow.address) as channel:
        connection.send([*calls(path, request_, 20), LAST_PING])
        narrow.run(several_are_held(narrow), timeout=20)
        narrow.run(everything_is_released(narrow), timeout=20)
        assert code_of_a_call(channel) is grpc.StatusCode.OK
        assert len(list(connection.frames())) > 0  # they end, because the connection is closed


def test_an_answer_that_is_read_frees_its_bytes(narrow: RunningServer) -> None:
    """A client that reads may call without end, and keeps its connection."""
    with grpc.insecure_channel(narrow.address) as channel:
        assert {code_of_a_call(channel) for _ in range(50)} == {grpc.StatusCode.OK}
    narrow.run(everything_is_released(narrow), timeout=20)


def test_a_small_answer_of_any_method_is_not_kept_for_ever(narrow: RunningServer) -> None:
    """The list of backbones takes no quota, but its connection is closed too."""
    path = b"/midrib.v1.BackboneService/ListBackbones"
    with closing(Connection(narrow.address, UNREAD)) as connection:
        connection.send(calls(path, b"", 3))
        assert len(list(connection.frames())) > 0

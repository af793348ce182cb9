"""Requests that are being received: their number is bounded, and half-sent ones do not block others."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
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
    NO_FLAGS,
    RST_STREAM,
    SETTINGS,
    Connection,
    frame,
    head,
    message,
)

pytestmark = pytest.mark.usefixtures("front")

MEBI = 2**20
LIMITS = "midrib.server._admission.receiving"
CALL = embedding_pb2.EmbedRequest(
    backbone="linear", input=embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
)
WIDE = "template/classification/mlp-128"
ROWS = np.ones((1024, 4096), np.float32)  # 16 MiB
OPEN = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone=WIDE)).SerializeToString()
ITEM = embedding_pb2.EmbedStreamRequest(
    item=embedding_pb2.Item(id=1, input=embedding_pb2.Input(tensor=encode_tensor(ROWS)))
).SerializeToString()
INFER = inference_pb2.ModelInferRequest(
    model_name=WIDE,
    inputs=[inference_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=ROWS.shape)],
    raw_input_contents=[ROWS.tobytes()],
).SerializeToString()


@pytest.fixture()
def hasty(test_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A server that soon gives up requests that do not arrive."""
    monkeypatch.setattr(f"{LIMITS}._LATE_S", 0.05)
    monkeypatch.setattr(f"{LIMITS}._STEP_S", 0.02)
    with serving("linear", registry=test_registry) as running:
        yield running


def half_sent(path: bytes, count: int) -> Iterator[bytes]:
    """Yield the frames of calls that each send the beginning of a message of 1 MiB."""
    for stream in range(1, 2 * count, 2):
        yield frame(HEADERS, END_HEADERS, stream, head(path=path))
        yield frame(DATA, NO_FLAGS, stream, message(b"x", declared=MEBI))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(EMBED, id="unary"),
        pytest.param(b"/midrib.v1.EmbeddingService/EmbedStream", id="stream"),
        pytest.param(b"/grpc.health.v1.Health/Watch", id="watch"),
    ],
)
def test_half_sent_requests_beyond_the_limit_are_given_up(hasty: RunningServer, path: bytes) -> None:
    """Their number is bounded, and the calls of others are answered meanwhile."""
    with closing(Connection(hasty.address)) as connection, grpc.insecure_channel(hasty.address) as channel:
        connection.send(half_sent(path, 40))
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        assert list(stub.Embed(CALL, timeout=20).embedding.shape) == [1, 3]
        assert connection.until(RST_STREAM)
        assert list(stub.Embed(CALL, timeout=20).embedding.shape) == [1, 3]


def test_many_small_requests_at_once_are_all_received(hasty: RunningServer) -> None:
    """More than may be received at the same time: they wait for one another."""
    with grpc.insecure_channel(hasty.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        calls = [stub.Embed.future(CALL, timeout=20) for _ in range(300)]
        assert {tuple(call.result().embedding.shape) for call in calls} == {(1, 3)}


@pytest.fixture()
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address of a `midrib serve` that may have 16 MiB in flight, and its folder in /proc."""
    monkeypatch.setenv("MIDRIB_MAX_IN_FLIGHT_BYTES", str(16 * MEBI))
    command = [sys.executable, "-m", "midrib.server.cli", "serve", f"{WIDE}?num_features=4096", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        yield events[1]["address"], Path("/proc", str(process.pid))
        process.kill()


def resident_mebi(process: Path, line: str) -> float:
    values = dict(text.split(":", 1) for text in (process / "status").read_text().splitlines())
    return int(values[line].split()[0]) / 1024


async def send_unread(address: str, method: str, messages: list[bytes], streams: int) -> None:
    """Send the messages on each of many streams at once, and read nothing, for a few seconds."""
    async with grpc.aio.insecure_channel(address) as channel:
        calls: list[Any] = [channel.stream_stream(method)() for _ in range(streams)]
        sending = [asyncio.ensure_future(_send(call, messages)) for call in calls]
        _, unsent = await asyncio.wait(sending, timeout=4)
        for task in [*unsent, *calls]:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


async def _send(call: Any, messages: list[bytes]) -> None:
    for item in messages:
        await call.write(item)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory in Linux's /proc")
@pytest.mark.parametrize(
    ("method", "messages", "limit_mebi"),
    [
        pytest.param("/midrib.v1.EmbeddingService/EmbedStream", [OPEN, ITEM, ITEM], 500, id="EmbedStream"),
        pytest.param("/inference.GRPCInferenceService/ModelStreamInfer", [INFER, INFER], 900, id="ModelStreamInfer"),
    ],
)
def test_items_that_wait_for_quota_are_few(
    process: tuple[str, Path], method: str, messages: list[bytes], limit_mebi: int
) -> None:
    """Of 24 streams that send 16 MiB each, few are received at the same time, each in a few copies."""
    address, folder = process
    before = resident_mebi(folder, "VmRSS")
    asyncio.run(send_unread(address, method, messages, streams=24))
    assert resident_mebi(folder, "VmHWM") - before < limit_mebi


def calls_with_many_fields() -> Iterator[bytes]:
    """Yield calls whose header fields take a byte each here, and much more in the memory of the server."""
    for stream in range(1, 8_000, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, head() + b"\x90" * 300)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory in Linux's /proc")
def test_calls_of_clients_that_have_left_keep_a_bounded_memory(process: tuple[str, Path]) -> None:
    """They come faster than the event loop accepts them."""
    address, folder = process
    before = resident_mebi(folder, "VmRSS")
    for _ in range(40):
        with closing(Connection(address)) as connection:
            connection.send(calls_with_many_fields())
            assert connection.until(SETTINGS)
    assert resident_mebi(folder, "VmHWM") - before < 900

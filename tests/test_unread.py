"""Clients that send on a stream and never read: the bytes that they hold are bounded, and released after a while.

Clients that keep a stream open and are silent hold nothing of the items that they sent.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from torch import Tensor, nn

from midrib.oip.v2 import inference_pb2 as oip
from midrib.registry import Registry, TensorInput
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor

pytestmark = pytest.mark.usefixtures("front")

REGISTRY = Registry("unread")
MEBI = 2**20
BIG = np.ones((1024, 2), np.float32)
ROW = BIG[:1]
OPEN = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="double"))
# Otherwise a fast connection lets gRPC's client take more answers that nobody reads, up to megabytes.
FIXED_WINDOW = [("grpc.http2.bdp_probe", 0)]
# A client without a token is known by its connection.
OTHER_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
NATIVE = "/midrib.v1.EmbeddingService/EmbedStream"
INFERENCE = "/inference.GRPCInferenceService/ModelStreamInfer"


class Double(nn.Module):
    """Doubles."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows * 2


@REGISTRY(name="double", namespace="test/embedding", input=TensorInput((2,)))
def load_double() -> tuple[nn.Module, int]:
    return Double(), 2


def item(number: int, rows: Any = BIG) -> bytes:
    message = embedding_pb2.Item(id=number, input=embedding_pb2.Input(tensor=encode_tensor(rows)))
    return embedding_pb2.EmbedStreamRequest(item=message).SerializeToString()


def inference(number: int) -> bytes:
    tensor = oip.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=BIG.shape)
    request = oip.ModelInferRequest(
        id=str(number), model_name="double", inputs=[tensor], raw_input_contents=[BIG.tobytes()]
    )
    return request.SerializeToString()


class Deaf:
    """A stream that sends without end and reads one response."""

    def __init__(self, channel: grpc.Channel, method: str, make: Callable[[int], bytes]) -> None:
        self.sent = 0
        self._first = [OPEN.SerializeToString()] if method == NATIVE else []
        self._make = make
        self._ended = threading.Event()
        talk: Any = channel.stream_stream(method)
        self.call: Any = talk(self._requests())
        next(self.call)

    def _requests(self) -> Iterator[bytes]:
        yield from self._first
        while not self._ended.is_set():
            self.sent += 1
            yield self._make(self.sent)

    def close(self) -> None:
        self._ended.set()
        self.call.cancel()


def embed(channel: grpc.Channel, number: int) -> list[list[float]]:
    """Return the embedding of one row, by a unary call."""
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    message = embedding_pb2.Input(tensor=encode_tensor(ROW * number))
    answer = stub.Embed(embedding_pb2.EmbedRequest(backbone="double", input=message), timeout=20)
    values: list[list[float]] = decode_tensor(answer.embedding).tolist()
    return values


@pytest.mark.parametrize(
    ("method", "make"),
    [
        pytest.param(NATIVE, item, id="native"),
        pytest.param(NATIVE, lambda _number: item(1), id="native, one id again and again"),
        pytest.param(INFERENCE, inference, id="inference"),
    ],
)
def test_it_is_soon_not_read_from(method: str, make: Callable[[int], bytes]) -> None:
    """The limit of the stream bounds its requests and their embeddings; the calls of others are answered."""
    with (
        serving("double", registry=REGISTRY, max_stream_bytes=MEBI, max_stream_items=64) as server,
        grpc.insecure_channel(server.address, options=FIXED_WINDOW) as channel,
        closing(Deaf(channel, method, make)) as stream,
    ):
        assert [embed(channel, number) for number in range(500)] == [[[2.0 * number] * 2] for number in range(500)]
        assert server.server.embedder.in_flight.held <= 2 * MEBI
        assert stream.sent < 1_000


@pytest.mark.parametrize(
    ("method", "make"), [pytest.param(NATIVE, item, id="native"), pytest.param(INFERENCE, inference, id="inference")]
)
def test_it_does_not_keep_others_out(method: str, make: Callable[[int], bytes]) -> None:
    """It fills its share of the quota, and others still find room; after `max_unread_s` its stream is closed.

    Its client takes few answers: only the end of the stream lets the bytes in flight fall from half the quota to 0.
    """
    limits: dict[str, Any] = {"max_stream_bytes": 4 * MEBI, "max_in_flight_bytes": MEBI, "max_unread_s": 2.0}
    with (
        serving("double", registry=REGISTRY, **limits) as server,
        grpc.insecure_channel(server.address, options=FIXED_WINDOW) as channel,
        grpc.insecure_channel(server.address, options=OTHER_CONNECTION) as other,
        closing(Deaf(channel, method, make)) as stream,
    ):
        held_bytes = held_after_calls(other, server)
        next(size for size in held_bytes if size > MEBI // 2)
        next(size for size in held_bytes if size == 0)
        with pytest.raises(grpc.RpcError, match="no result of this stream was read for 2 s"):
            list(stream.call)


def held_after_calls(channel: grpc.Channel, server: RunningServer) -> Iterator[int]:
    """Yield the bytes in flight after each of many calls. Raises RpcError if one is refused."""
    for number in range(20_000):
        embed(channel, number)
        yield server.server.embedder.in_flight.held


OPEN_SAME = embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="same")).SerializeToString()
# The server's process imports this too: torch, which takes seconds to import, is for the worker.
OTHER_PROCESS = """
from midrib.backbones import BACKBONES
from midrib.registry import TensorInput

@BACKBONES(name="same", namespace="test/embedding", input=TensorInput((1024,)))
def load_same():
    from torch import nn

    return nn.Identity(), 1024
"""


@pytest.fixture()
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address of a `midrib serve` that may have 16 MiB in flight, and its folder in /proc."""
    (tmp_path / "unread_backbones.py").write_text(OTHER_PROCESS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("MIDRIB_MAX_IN_FLIGHT_BYTES", str(16 * MEBI))
    command = [sys.executable, "-m", "midrib.server.cli", "serve", "same", "--import", "unread_backbones"]
    with subprocess.Popen([*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        yield events[1]["address"], Path("/proc", str(process.pid))
        process.kill()


async def send_until_not_read_from(address: str, sends: int) -> int:
    """Return how many items of 1 MiB a stream that reads nothing can send, at most `sends`."""
    rows = np.ones((256, 1024), np.float32)
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(NATIVE)()
        await call.write(OPEN_SAME)
        for number in range(sends):
            try:
                await asyncio.wait_for(call.write(item(number, rows)), 3)
            except TimeoutError:
                return number
    return sends


async def flood(address: str) -> list[int]:
    return await asyncio.gather(*(send_until_not_read_from(address, 200) for _ in range(8)))


async def ask_once_each(address: str, streams: int) -> None:
    """Open streams on one connection that each have 1 MiB embedded and stay open until all have."""
    rows = np.ones((256, 1024), np.float32)
    async with grpc.aio.insecure_channel(address) as channel:
        calls: list[Any] = []
        for number in range(streams):
            calls.append(channel.stream_stream(NATIVE)())
            await calls[-1].write(OPEN_SAME)
            await calls[-1].write(item(number, rows))
            assert [len(await calls[-1].read()) > MEBI for _ in ("opened", "result")] == [False, True]


def resident_mebi(process: Path, line: str) -> float:
    (value,) = (text for text in (process / "status").read_text().splitlines() if text.startswith(line))
    return int(value.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory in Linux's /proc")
def test_a_flood_of_them_costs_the_limit_and_a_little_for_each(process: tuple[str, Path]) -> None:
    """16 MiB in flight, and for each of the eight streams an item in several copies and 1 MiB sent ahead."""
    address, folder = process
    before = resident_mebi(folder, "VmRSS")
    assert max(asyncio.run(flood(address))) < 100
    assert resident_mebi(folder, "VmHWM") - before < 16 + 8 * 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory in Linux's /proc")
def test_a_silent_stream_keeps_neither_items_nor_results(process: tuple[str, Path]) -> None:
    """A hundred streams have each had 1 MiB embedded, and none of it stays in memory."""
    address, folder = process
    asyncio.run(ask_once_each(address, 1))
    before = resident_mebi(folder, "VmRSS")
    asyncio.run(ask_once_each(address, 100))
    assert resident_mebi(folder, "VmHWM") - before < 50

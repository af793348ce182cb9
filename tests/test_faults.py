"""Faults with real processes: clients and servers killed for real, and nothing lost, doubled or swapped."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.remote import Client
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, decode_tensor, encode_tensor

NAME = "test/embedding/double"
# The server's process imports this too: torch, which takes seconds to import, is for the worker.
OTHER_PROCESS = """
from midrib.backbones import BACKBONES
from midrib.registry import TensorInput

@BACKBONES(name="double", namespace="test/embedding", input=TensorInput((2,)))
def load_double():
    from torch import nn

    class Double(nn.Module):
        def forward(self, rows):
            return rows * 2

    return Double(), 2
"""
REGISTRY = Registry("faults")


class Double(nn.Module):
    """Doubles its rows."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows * 2


@REGISTRY(name="double", namespace="test/embedding", input=TensorInput((2,)))
def load_double(width: int = 2) -> tuple[nn.Module, int]:
    return Double(), width


@pytest.fixture()
def module_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where another process finds the backbone `double`."""
    (tmp_path / "faults_backbones.py").write_text(OTHER_PROCESS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return tmp_path


class ServerProcess:
    """`midrib serve double` as a separate process; the same port every time it is started."""

    def __init__(self) -> None:
        self.port = "0"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "midrib.server.cli", "serve", "double", "--import", "faults_backbones"]
        self.process = subprocess.Popen([*command, "--port", self.port, "--json"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        events = [json.loads(self.process.stdout.readline()) for _ in range(2)]
        self.address = events[1]["address"]
        self.port = self.address.rpartition(":")[2]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture()
def server_process(front: str, module_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess()
    yield server
    server.end(signal.SIGKILL)


@pytest.fixture()
def server(front: str) -> Iterator[RunningServer]:
    with serving("double", registry=REGISTRY, max_stream_bytes=2**20) as running:
        yield running


@pytest.fixture()
def admin() -> Iterator[RunningServer]:
    """A server that serves nothing yet, and lets clients load backbones."""
    with serving(registry=REGISTRY, admin=True) as running:
        yield running


def rows(value: float, count: int = 1) -> Array:
    return np.full((count, 2), value, np.float32)


def embed_request(value: float) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(backbone=NAME, input=embedding_pb2.Input(tensor=encode_tensor(rows(value))))


def test_a_server_killed_and_restarted_under_load_costs_no_row(server_process: ServerProcess) -> None:
    """SIGKILL in the middle of a stream: the client resumes, and every row comes once, in order."""
    total, killed = 3000, threading.Event()

    def restart() -> None:
        server_process.end(signal.SIGKILL)
        killed.set()
        server_process.start()

    def batches() -> Iterator[Array]:
        for number in range(total):
            if number == total // 3:
                threading.Thread(target=restart).start()
                killed.wait(30)
            yield rows(number)

    with Client(server_process.address, timeout=60) as client:
        got = [float(result[0, 0]) for result in client.embed_stream(NAME, batches())]
    assert killed.is_set()
    assert got == [2.0 * number for number in range(total)]


def test_sigterm_under_load_loses_nothing_that_was_accepted(server_process: ServerProcess) -> None:
    """Every call gets its own row or a retriable status, and the server ends with status 0."""
    with grpc.insecure_channel(server_process.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        calls = [stub.Embed.future(embed_request(number), timeout=30) for number in range(600)]
        calls[20].result()
        assert server_process.end(signal.SIGTERM) == 0
        codes = [call.code() for call in calls]
        answered = {
            number: decode_tensor(call.result().embedding)[0, 0]
            for number, call in enumerate(calls)
            if call.code() is grpc.StatusCode.OK
        }
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert answered == {number: 2.0 * number for number in answered}
    assert len(answered) > 20


CLIENT_THAT_FLOODS = """
import sys, itertools, grpc, numpy as np
from midrib.v1 import embedding_pb2 as e, embedding_pb2_grpc as g
from midrib.wire import encode_tensor
stub = g.EmbeddingServiceStub(grpc.insecure_channel(sys.argv[1]))
big = e.Input(tensor=encode_tensor(np.ones((1024, 2), np.float32)))
def talk():
    yield e.EmbedStreamRequest(open=e.Open(backbone="double"))
    for number in itertools.count():
        yield e.EmbedStreamRequest(item=e.Item(id=number, input=big))
for number, _ in enumerate(stub.EmbedStream(talk())):
    if number == 50:
        print("flowing", flush=True)
"""


def test_a_client_killed_in_mid_stream_leaves_nothing_behind(server: RunningServer) -> None:
    """Its bytes are given back, and everybody else is served as before."""
    flood = subprocess.Popen(
        [sys.executable, "-c", CLIENT_THAT_FLOODS, server.address], stdout=subprocess.PIPE, text=True
    )
    assert flood.stdout is not None
    assert flood.stdout.readline() == "flowing\n"
    with Client(server.address) as client:
        assert client.embed(NAME, rows(4)).tolist() == [[8, 8]]
        flood.kill()
        flood.communicate()
        in_flight = server.server.embedder.in_flight
        answers = (client.embed(NAME, rows(5)).tolist() for _ in range(2000))
        assert next(answer for answer in answers if not in_flight.held) == [[10, 10]]


def test_a_lost_replica_is_replaced(server: RunningServer, lose_replica: Callable[[RunningServer, str], None]) -> None:
    """The item that it was given is retriable, by its status; the next items are served by a new thread."""
    lose_replica(server, NAME)
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="the replica that ran this item was lost") as caught:
            stub.Embed(embed_request(3), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert decode_tensor(stub.Embed(embed_request(4), timeout=20).embedding).tolist() == [[8, 8]]


def test_a_stream_resumes_after_go_away(admin: RunningServer) -> None:
    """Loading the same function again drains the old one under the stream: its unfinished items go to the new one."""
    total, reloads = 600, {100, 300}
    with Client(admin.address, timeout=60) as client, Client(admin.address) as operator:
        operator.load("double")

        def batches() -> Iterator[Array]:
            for number in range(total):
                if number in reloads:
                    operator.load("double")
                yield rows(number)

        got = [float(result[0, 0]) for result in client.embed_stream(NAME, batches())]
    assert got == [2.0 * number for number in range(total)]


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads this process's memory from /proc")
def test_a_thousand_loads_and_unloads_keep_memory_flat() -> None:
    """The last nine hundred cost no more than a few pages each."""
    with serving(registry=REGISTRY, admin=True) as running, Client(running.address) as client:
        for _ in range(100):
            client.load("double")
            client.unload("double")
        before = resident_bytes()
        for _ in range(900):
            client.load("double")
            client.unload("double")
        assert resident_bytes() - before < 900 * 8192
        assert client.list() == []
        assert threading.active_count() < 40

"""Front processes: their end, the end of the engine, and the calls of all of them in one engine."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.registry import Registry
from midrib.remote import Client
from midrib.server import Settings
from midrib.server._front.processes.front import Front
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor
from server.tests.conftest import Gate
from server.tests.grpc.server_process import ServerProcess

FRONTS = 3
CHANNELS = 16
# Each channel has its own connection, so that the kernel divides them among the processes.
SEPARATE = [("grpc.use_local_subchannel_pool", 1)]


def request(value: float, *, backbone: str = "linear", rows: int = 1) -> embedding_pb2.EmbedRequest:
    """Return a request for rows of one value; 13 waits at the gate."""
    tensor = encode_tensor(np.full((rows, 2), value, np.float32))
    return embedding_pb2.EmbedRequest(backbone=backbone, input=embedding_pb2.Input(tensor=tensor))


WAITING = request(13, backbone="gate")


@pytest.fixture()
def serve(test_registry: Registry) -> Iterator[Callable[..., RunningServer]]:
    """Serves `gate` and `linear` over three processes."""
    with ExitStack() as stack:

        def start(**settings: Any) -> RunningServer:
            chosen = {"registry": test_registry, "front": "asyncio", "fronts": FRONTS, **settings}
            return stack.enter_context(serving("gate", "linear", **chosen))

        yield start


@pytest.fixture()
def front_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A `midrib serve` with three front processes."""
    monkeypatch.setenv("MIDRIB_FRONT", "asyncio")
    monkeypatch.setenv("MIDRIB_FRONTS", str(FRONTS))
    process = ServerProcess(tmp_path)
    yield process
    process.process.kill()
    process.process.wait(60)
    assert process.process.stdout is not None
    process.process.stdout.close()


@pytest.fixture()
def stubs() -> Iterator[Callable[[RunningServer], list[Any]]]:
    """Returns stubs, each with a separate connection, which both ends have opened."""
    with ExitStack() as stack:

        def connect(running: RunningServer) -> list[Any]:
            channels = [grpc.insecure_channel(running.address, options=SEPARATE) for _ in range(CHANNELS)]
            stubs = [embedding_pb2_grpc.EmbeddingServiceStub(stack.enter_context(channel)) for channel in channels]
            for stub in stubs:
                stub.Embed(request(1), timeout=60, wait_for_ready=True)
            return stubs

        yield connect


def fronts(running: RunningServer) -> list[Front]:
    """Return the processes of a server."""
    processes: Any = running.server._grpc
    return list(processes.fronts.values())


async def calls_have_arrived(running: RunningServer, count: int) -> None:
    """Wait until the engine has this number of calls: gRPC repeats a call that was not sent."""
    while sum(front.calls for front in fronts(running)) < count:
        await asyncio.sleep(0)


def ends(pid: int, seconds: float) -> bool:
    """Wait for the end of a process; return whether it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = bool(poll.poll(1000 * seconds))
    os.close(descriptor)
    return ended


def children(pid: int) -> list[int]:
    """Return the front processes that a process has started."""
    started = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in started if Path(f"/proc/{child}/comm").read_text().strip() == "midrib-front"]


def test_calls_of_a_killed_process_may_be_retried(
    serve: Callable[..., RunningServer], stubs: Callable[[RunningServer], list[Any]], gate: type[Gate]
) -> None:
    """UNAVAILABLE for its calls alone; the engine forgets them, and another process takes its place."""
    running = serve()
    connected = stubs(running)
    calls = [stub.Embed.future(WAITING, timeout=60) for stub in connected]
    running.run(calls_have_arrived(running, CHANNELS), timeout=20)
    assert gate.passing.wait(20)
    busiest = max(fronts(running), key=lambda front: front.connections)
    lost = busiest.connections
    os.kill(busiest.pid, signal.SIGKILL)
    assert ends(busiest.pid, 20)
    gate.opened.set()
    codes = [error.code() for error in (call.exception(60) for call in calls) if error is not None]
    assert codes == [grpc.StatusCode.UNAVAILABLE] * lost
    for stub in connected:
        stub.Embed(request(1), timeout=60, wait_for_ready=True)
    assert running.server.embedder.in_flight.held == 0


def test_a_client_loses_nothing_to_a_killed_process(serve: Callable[..., RunningServer]) -> None:
    """Midrib's client sends the items again that have no answer; each row comes once and in order."""
    running = serve()
    rows = [np.full((1 + index % 3, 2), index, np.float32) for index in range(600)]
    with Client(running.address, timeout=60.0) as client:
        stream = client.embed_stream("gate", rows)
        answers = [next(stream) for _ in range(100)]
        for front in fronts(running):
            os.kill(front.pid, signal.SIGKILL)
        answers += stream
    np.testing.assert_array_equal(np.concatenate(answers), 2 * np.concatenate(rows))


def test_a_process_that_ended_is_replaced_and_counted(serve: Callable[..., RunningServer]) -> None:
    """The metrics show each process and the number of replacements."""
    running = serve(http_port=0)
    killed = fronts(running)[0]
    os.kill(killed.pid, signal.SIGKILL)
    with Client(running.address, timeout=60.0) as client:
        while len(fronts(running)) < FRONTS or killed in fronts(running):
            client.embed("linear", np.ones((1, 2), np.float32))
        with urllib.request.urlopen(f"http://{running.server.http_address}/metrics", timeout=60) as reply:
            metrics = reply.read().decode()
    assert "midrib_front_restarts_total 1.0" in metrics
    assert [f'midrib_front_connections{{front="{number}"}}' in metrics for number in range(FRONTS)] == [True] * FRONTS


def test_no_process_outlives_a_killed_engine(front_process: ServerProcess) -> None:
    """SIGKILL lets the engine end nothing."""
    processes = children(front_process.process.pid)
    assert len(processes) == FRONTS
    front_process.process.kill()
    assert [ends(pid, 2.0) for pid in processes] == [True] * FRONTS


def test_a_signal_to_the_whole_group_drains(front_process: ServerProcess) -> None:
    """Service managers send SIGTERM to every process: the engine alone decides when the others end."""
    processes = children(front_process.process.pid)
    for pid in processes:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert front_process.embed() == [1, 128]
    assert front_process.stop() == 0
    assert [ends(pid, 2.0) for pid in processes] == [True] * FRONTS


def test_a_process_imports_no_torch(front_process: ServerProcess) -> None:
    """It would take hundreds of megabytes and seconds."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in children(front_process.process.pid)]
    assert ["libtorch" in text for text in maps] == [False] * FRONTS


def test_a_process_that_hangs_does_not_keep_the_server(serve: Callable[..., RunningServer]) -> None:
    """It is killed once the grace is over."""
    running = serve()
    pids = [front.pid for front in fronts(running)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    running.run(running.server._grpc.stop(0.1), timeout=20)
    assert [ends(pid, 2.0) for pid in pids] == [True] * FRONTS


def test_the_quota_of_the_server_holds_across_processes(
    serve: Callable[..., RunningServer], stubs: Callable[[RunningServer], list[Any]], gate: type[Gate]
) -> None:
    """One item has all bytes in flight: no connection of any process has room for another one."""
    running = serve(max_in_flight_bytes=4096)
    connected = stubs(running)
    holding = connected[0].Embed.future(request(13, backbone="gate", rows=500), timeout=60)
    assert gate.passing.wait(20)
    codes = [stub.Embed.future(request(1, rows=500), timeout=60).exception(60).code() for stub in connected]
    gate.opened.set()
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * CHANNELS
    assert decode_tensor(holding.result(60).embedding).shape == (500, 2)
    assert [front.connections > 0 for front in fronts(running)].count(True) > 1


def test_a_large_message_crosses_in_both_directions(
    serve: Callable[..., RunningServer], stubs: Callable[[RunningServer], list[Any]], gate: type[Gate]
) -> None:
    """It is larger than any buffer of a socket."""
    gate.opened.set()
    large = request(3, backbone="gate", rows=400_000)
    connected = stubs(serve(max_batch_rows=400_000))
    answers = [stub.Embed.future(large, timeout=60) for stub in connected[:2]]
    assert [decode_tensor(answer.result(60).embedding).sum() for answer in answers] == [400_000 * 2 * 6.0] * 2


def test_a_second_server_on_the_port_is_refused(serve: Callable[..., RunningServer]) -> None:
    """SO_REUSEPORT alone would give it a part of the connections."""
    port = serve().server.port
    with pytest.raises(ConnectionError, match="is another server there"):
        serve(port=port)


def test_grpcio_does_not_run_in_other_processes() -> None:
    """The error says what to set."""
    with pytest.raises(ValueError, match="fronts is 2, and front 'grpcio' runs in the server's process only"):
        Settings(fronts=2, front="grpcio")

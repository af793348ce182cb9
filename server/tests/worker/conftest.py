"""Servers whose backbones a fresh process can import, and calls to them."""

from __future__ import annotations

import asyncio
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from midrib.registry import Registry
from midrib.server._catalogue.processes import ReplicaWorkers, host_in_processes
from midrib.server._engine.compute import Arrays
from midrib.server._settings import BackboneSettings, Settings
from midrib.server._worker.replica import ReadyWorker, WorkerReplica
from midrib.server._worker.supervision import Supervisor
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, UnavailableError, decode_tensor

Serve = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture(scope="session")
def misbehaving() -> Iterator[Registry]:
    """The registry of misbehaving.py, imported by a name that a fresh process finds too."""
    folder = str(Path(__file__).parent)
    sys.path.append(folder)
    registry: Registry = importlib.import_module("misbehaving").REGISTRY
    yield registry
    sys.path.remove(folder)


@pytest.fixture()
def serve(misbehaving: Registry) -> Serve:
    """`serving` with worker processes, and with the registry of misbehaving.py."""

    def serve_them(*backbones: str | dict[str, Any], **settings: Any) -> AbstractContextManager[RunningServer]:
        return serving(*backbones, registry=misbehaving, **{"workers": "process", "warm_up_s": 0.0, **settings})

    return serve_them


class RunningReplica:
    """A replica with its worker, whose event loop runs while a method waits."""

    def __init__(self, workers: ReplicaWorkers, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._supervisors: list[Supervisor] = []
        self.replica = WorkerReplica(lambda: self._start(workers), workers.group, name="test")
        runner.run(self.replica.start())

    @property
    def pid(self) -> int:
        """The process id of the running worker; waits until a dead one is replaced."""

        async def running_pid() -> int:
            while (worker := await asyncio.to_thread(self._supervisors[-1].worker)).has_ended():
                await asyncio.sleep(0.01)
            return worker.pid

        return self._runner.run(running_pid())

    @property
    def restarts(self) -> int:
        """The number of workers that were replaced."""
        return self._supervisors[-1].restarts

    def run(self, *items: Arrays, meanwhile: Callable[[], object] = lambda: None) -> list[Array | Exception]:
        """Return the results of one batch. meanwhile: called once the batch is submitted."""
        return self.run_batches([items], meanwhile=meanwhile)[0]

    def run_batches(
        self, batches: Sequence[Sequence[Arrays]], meanwhile: Callable[[], object] = lambda: None
    ) -> list[list[Array | Exception]]:
        """Return the results of batches that are submitted together."""

        async def submit() -> list[list[Array | Exception]]:
            reports = [self.replica.submit(batch) for batch in batches]
            meanwhile()
            return [list((await report).results) for report in reports]

        return self._runner.run(submit())

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Return once a state is reached; fails after some seconds."""

        async def reach() -> None:
            async with asyncio.timeout(20):
                while not reached():
                    await asyncio.sleep(0.01)

        self._runner.run(reach())

    def close(self) -> None:
        """End the worker, also one that computes, and wait for its end."""

        async def close() -> None:
            self.replica.abandon(UnavailableError("the test is over"))
            await self.replica.join()

        self._runner.run(close())

    def _start(self, workers: ReplicaWorkers) -> ReadyWorker:
        ready = workers.start()
        self._supervisors.append(ready.supervisor)
        return ready


@pytest.fixture()
def replica_of(misbehaving: Registry) -> Iterator[Callable[..., RunningReplica]]:
    """Start a replica of a backbone, with settings; ended after the test."""
    started: list[RunningReplica] = []
    with asyncio.Runner() as runner:

        def start(
            name: str, arguments: dict[str, Any] | None = None, registry: Registry = misbehaving, **settings: Any
        ) -> RunningReplica:
            requested = BackboneSettings(name=name, arguments=arguments or {})
            hosted = host_in_processes(requested, Settings(**{"warm_up_s": 0.0, "threads": 1, **settings}), registry)
            started.append(RunningReplica(hosted.workers[0], runner))
            return started[-1]

        yield start
        for each in started:
            each.close()


@pytest.fixture()
def kill() -> Callable[[int], None]:
    """Kill a worker and wait for its end."""

    def kill_and_wait(pid: int) -> None:
        descriptor = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([descriptor], [], [])  # readable once it has ended
        os.close(descriptor)

    return kill_and_wait


@pytest.fixture()
def embed() -> Callable[..., list[Array | str]]:
    """Embed each input by a separate call, all at once: the rows, or the name of the status."""

    def embed_all(running: RunningServer, *inputs: embedding_pb2.Input, backbone: str) -> list[Array | str]:
        with grpc.insecure_channel(running.address) as channel, ThreadPoolExecutor(32) as pool:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            requests = [embedding_pb2.EmbedRequest(backbone=backbone, input=message) for message in inputs]
            return list(pool.map(lambda request: _outcome(stub, request), requests))

    return embed_all


def _outcome(stub: Any, request: embedding_pb2.EmbedRequest) -> Array | str:
    try:
        return decode_tensor(stub.Embed(request, timeout=60).embedding, field="embedding")
    except grpc.RpcError as error:
        return str(error.code().name)

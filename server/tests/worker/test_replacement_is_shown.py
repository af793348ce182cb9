"""The health service, the metrics and `midrib status` show a worker that is being replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from midrib.remote._command.options import Access
from midrib.remote._command.status.metrics import MetricsReader
from midrib.remote._command.status.report import BackboneStatus, status_of
from midrib.server.cli import app
from midrib.server.testing import RunningServer
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

Serve = Callable[..., AbstractContextManager[RunningServer]]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture()
def running(serve: Serve, tmp_path: Path) -> Iterator[RunningServer]:
    """Serves `doubling`, and `gated` whose successor waits until the file `open` exists."""
    with serve("doubling", {"name": "gated", "arguments": {"folder": str(tmp_path)}}, http_port=0) as server:
        yield server
        (tmp_path / "open").touch()


@pytest.fixture()
def health(running: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(running.address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def kill_worker(running: RunningServer, backbone: str) -> None:
    (worker,) = running.server.catalogue.entry(backbone).ready().worker_states()
    os.kill(worker.pid, signal.SIGKILL)


def status(running: RunningServer) -> list[BackboneStatus]:
    metrics = MetricsReader(str(running.server.http_address), Access(None, None, None, 10.0)).read()
    return status_of(metrics, metrics).backbones


def test_the_health_of_a_backbone_follows_its_workers(running: RunningServer, health: Any, tmp_path: Path) -> None:
    """NOT_SERVING while none runs; the server and its other backbones stay SERVING."""
    changes = health.Watch(health_pb2.HealthCheckRequest(service="test/embedding/gated"), timeout=60)
    assert next(changes).status == SERVING
    kill_worker(running, "gated")
    assert next(changes).status == NOT_SERVING
    for name in ("", "test/embedding/doubling"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == SERVING
    (tmp_path / "open").touch()
    assert next(changes).status == SERVING


def test_the_metrics_and_the_status_show_it(running: RunningServer, health: Any, tmp_path: Path) -> None:
    """The worker that does not run, the restarts, and the words "being replaced"."""
    changes = health.Watch(health_pb2.HealthCheckRequest(service="test/embedding/gated"), timeout=60)
    next(changes)
    kill_worker(running, "gated")
    assert next(changes).status == NOT_SERVING
    other, replaced = status(running)
    assert [[worker.running for worker in each.workers] for each in (other, replaced)] == [[True], [False]]
    assert (
        "being replaced"
        in CliRunner().invoke(app, ["status", "--interval", "0.05", str(running.server.http_address)]).stdout
    )
    (tmp_path / "open").touch()
    assert next(changes).status == SERVING
    _, replaced = status(running)
    assert (replaced.restarts, [worker.running for worker in replaced.workers]) == (1, [True])


def test_a_call_whose_deadline_is_before_the_next_start_is_unavailable(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server may answer it. The first call may have been queued before the wait began."""
    monkeypatch.setattr("midrib.server._worker.supervision._START_BURST", 0)
    monkeypatch.setattr("midrib.server._worker.supervision._START_INTERVAL_S", 600.0)
    request = embedding_pb2.EmbedRequest(
        backbone="doubling", input=embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
    )
    with serve("doubling") as running, grpc.insecure_channel(running.address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        kill_worker(running, "doubling")
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED|UNAVAILABLE"):
            stub.Embed(request, timeout=5)
        with pytest.raises(grpc.RpcError, match="no worker of the backbone runs, and the next one starts in") as caught:
            stub.Embed(request, timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_two_replicas_stay_healthy_while_one_is_replaced(serve: Serve) -> None:
    """The other one computes."""
    with serve("doubling", replicas=2) as server, grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        entry = server.server.catalogue.entry("doubling")
        os.kill(entry.ready().worker_states()[0].pid, signal.SIGKILL)
        check = health_pb2.HealthCheckRequest(service="test/embedding/doubling")
        statuses = {stub.Check(check, timeout=10).status for _ in range(50)}
    assert statuses == {SERVING}

"""`midrib status`: the metrics of a running server as a table and as JSON."""

from __future__ import annotations

import json

import pytest
from torch import nn
from typer.testing import CliRunner

from midrib.registry import Registry, TensorInput
from midrib.server._command.status import BackboneStatus, FrontStatus, WorkerStatus, read_fronts, read_status
from midrib.server.cli import app
from midrib.server.testing import serving

METRICS = """
# TYPE midrib_backbone_state gauge
midrib_backbone_state{backbone="b/x",state="failed"} 1.0
midrib_backbone_state{backbone="a/x",state="ready"} 1.0
# TYPE midrib_worker_restarts counter
midrib_worker_restarts_total{backbone="a/x"} 2.0
# TYPE midrib_worker_running gauge
midrib_worker_running{backbone="a/x",replica="0"} 0.0
midrib_worker_running{backbone="a/x",replica="1"} 1.0
# TYPE midrib_worker_pid gauge
midrib_worker_pid{backbone="a/x",replica="1"} 4711.0
# TYPE midrib_worker_memory_bytes gauge
midrib_worker_memory_bytes{backbone="a/x",replica="1"} 1.048576e+06
"""
FRONTS = """
# TYPE midrib_front_pid gauge
midrib_front_pid{front="10"} 12.0
midrib_front_pid{front="2"} 11.0
# TYPE midrib_front_connections gauge
midrib_front_connections{front="2"} 3.0
# TYPE midrib_front_calls gauge
midrib_front_calls{front="2"} 1.0
# TYPE midrib_front_processor_seconds counter
midrib_front_processor_seconds_total{front="2"} 0.5
# TYPE midrib_front_restarts counter
midrib_front_restarts_total 4.0
"""
REGISTRY = Registry("status")


@REGISTRY(name="identity", namespace="test/embedding", input=TensorInput((2,)))
def load_identity() -> tuple[nn.Module, int]:
    return nn.Identity(), 2


def test_the_status_is_read_from_the_metrics() -> None:
    """One line for each replica; a replica that is being replaced has no process id."""
    workers = [WorkerStatus(), WorkerStatus(running=True, pid=4711, memory_bytes=2**20)]
    assert read_status(METRICS) == [BackboneStatus("a/x", "ready", 2, workers), BackboneStatus("b/x", "failed")]


def test_the_front_processes_are_read_from_the_metrics() -> None:
    """They are ordered by number."""
    assert read_fronts(FRONTS) == [FrontStatus(2, 11, 3, 1, 0.5), FrontStatus(10, 12)]


def test_the_front_processes_of_a_running_server_are_shown() -> None:
    """A table below that of the backbones."""
    with serving("identity", registry=REGISTRY, http_port=0, front="asyncio", fronts=2) as running:
        table = CliRunner().invoke(app, ["status", f"http://{running.server.http_address}"])
    assert "connections" in table.stdout


def test_a_running_server_is_shown() -> None:
    """A backbone whose replicas are threads has no workers."""
    with serving("identity", registry=REGISTRY, http_port=0, workers="thread") as running:
        address = str(running.server.http_address)
        table = CliRunner().invoke(app, ["status", f"http://{address}"])
        shown = CliRunner().invoke(app, ["status", address, "--json"])
    assert "test/embedding/identity" in table.stdout
    assert "thread" in table.stdout
    expected = {"name": "test/embedding/identity", "state": "ready", "restarts": 0, "workers": []}
    assert json.loads(shown.stdout) == [expected]


def test_the_grpc_port_is_said_with_the_remedy() -> None:
    """The two ports of a server are easily confused."""
    remedy = pytest.raises(ConnectionError, match="does not speak HTTP: give the HTTP port")
    with serving("identity", registry=REGISTRY, workers="thread") as running, remedy:
        CliRunner().invoke(app, ["status", running.address], catch_exceptions=False, standalone_mode=False)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param("127.0.0.1:9", r"metrics \(Connection refused\): start the server with", id="refused"),
        pytest.param("no-such-host.invalid:9", r"metrics \([A-Z][^<>]*\): check the host$", id="unknown-host"),
    ],
)
def test_no_server_is_said_with_the_remedy(address: str, message: str) -> None:
    """The status is read over HTTP, which is off by default. The reason is the system's, not the library's."""
    with pytest.raises(ConnectionError, match=f"no metrics at http://{address}/{message}"):
        CliRunner().invoke(app, ["status", address], catch_exceptions=False, standalone_mode=False)

"""`midrib status`: the metrics of a running server as tables and as JSON, once and live."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from torch import nn
from typer.testing import CliRunner

from midrib.registry import Registry, TensorInput
from midrib.remote import Client, Tls
from midrib.remote._command.status.metrics import Scrape, parse
from midrib.remote._command.status.report import BackboneStatus, FrontStatus, TenantStatus, WorkerStatus, status_of
from midrib.server.cli import app
from midrib.server.testing import serving

METRICS = """
# TYPE midrib_backbone_state gauge
midrib_backbone_state{backbone="b/x",state="failed"} 1.0
midrib_backbone_state{backbone="a/x",state="ready"} 1.0
# TYPE midrib_compute_plan gauge
midrib_compute_plan{backbone="a/x",plan="2 threads a pass"} 1.0
# TYPE midrib_queue_items gauge
midrib_queue_items{backbone="a/x"} 3.0
# TYPE midrib_rows counter
midrib_rows_total{backbone="a/x"} ROWS
# TYPE midrib_worker_restarts counter
midrib_worker_restarts_total{backbone="a/x"} 2.0
# TYPE midrib_worker_running gauge
midrib_worker_running{backbone="a/x",replica="0"} 0.0
midrib_worker_running{backbone="a/x",replica="1"} 1.0
# TYPE midrib_worker_pid gauge
midrib_worker_pid{backbone="a/x",replica="1"} 4711.0
# TYPE midrib_worker_memory_bytes gauge
midrib_worker_memory_bytes{backbone="a/x",replica="1"} 1.048576e+06
# TYPE midrib_token_rows counter
midrib_token_rows_total{token="team"} ROWS
# TYPE midrib_token_items counter
midrib_token_items_total{token="team",outcome="failed"} 1.0
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 2.097152e+06
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
NAME = "test/embedding/identity"


@REGISTRY(name="identity", namespace="test/embedding", input=TensorInput((2,)))
def load_identity() -> tuple[nn.Module, int]:
    return nn.Identity(), 2


def scrape(seconds: float, rows: int) -> Scrape:
    return Scrape(seconds, parse(METRICS.replace("ROWS", str(rows))))


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["status", "--interval", "0.05", *arguments])


def test_the_status_is_computed_from_two_readings() -> None:
    """Rates are of the time between them. A replica that is being replaced has no process id."""
    status = status_of(scrape(10.0, 100), scrape(12.0, 140))
    workers = [WorkerStatus(), WorkerStatus(running=True, pid=4711, memory_bytes=2**20)]
    ready = BackboneStatus("a/x", "ready", 3, 20.0, restarts=2, plan="2 threads a pass", workers=workers)
    assert status.backbones == [ready, BackboneStatus("b/x", "failed")]
    assert status.tenants == [TenantStatus("team", 20.0, 140, 1)]
    assert status.memory_bytes == 2**21


def test_a_counter_that_began_again_has_no_negative_rate() -> None:
    """A backbone that was loaded again counts from 0."""
    assert status_of(scrape(0.0, 100), scrape(1.0, 7)).backbones[0].rows_per_s == 7


def test_the_front_processes_are_read_from_the_metrics() -> None:
    """They are ordered by number."""
    fronts = Scrape(1.0, parse(FRONTS))
    assert status_of(fronts, fronts).fronts == [FrontStatus(2, 11, 3, 1, 0.5), FrontStatus(10, 12)]


def test_the_front_processes_of_a_running_server_are_shown() -> None:
    """A table below that of the backbones."""
    with serving("identity", registry=REGISTRY, http_port=0, front="asyncio", fronts=2) as running:
        table = invoke(f"http://{running.server.http_address}")
    assert "connections" in table.stdout


def test_a_running_server_is_shown() -> None:
    """A backbone whose replicas are threads has no workers; its plan is shown."""
    with serving("identity", registry=REGISTRY, http_port=0, workers="thread") as running:
        address = str(running.server.http_address)
        table = invoke(f"http://{address}")
        shown = json.loads(invoke(address, "--json").stdout)
    assert re.search(rf"{NAME} +ready +0 +0 +0 +0 +threads +1 thread a pass", table.stdout)
    assert "memory of the server's process" in table.stdout
    assert "twice, 0.05 s apart" in table.stderr
    [backbone] = shown["backbones"]
    assert (backbone["name"], backbone["state"], backbone["workers"]) == (NAME, "ready", [])


def test_tenants_are_shown_over_tls(tmp_path: Path) -> None:
    """With a token from the environment, over https, if a file of authorities is given."""
    authority = trustme.CA()
    certificate, roots = tmp_path / "server.pem", tmp_path / "roots.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(roots)
    (cut := tmp_path / "cut.pem").write_bytes(authority.cert_pem.bytes()[:200])
    token = CliRunner().invoke(app, ["token", "team-a"])
    secret, tokens = token.stdout.strip(), tmp_path / "tokens.toml"
    tokens.write_text(token.stderr)
    settings: dict[str, Any] = {"tls_certificate": certificate, "tls_key": certificate, "tokens": tokens}
    with serving("identity", registry=REGISTRY, http_port=0, workers="thread", **settings) as running:
        with Client(running.address, token=secret, tls=Tls(roots)) as client:
            client.embed(NAME, [[1.0, 2.0]])
        access = ("--token", secret, "--tls-roots", str(roots))
        shown = json.loads(invoke(str(running.server.http_address), *access, "--json").stdout)
        refused = invoke(str(running.server.http_address), *access[:2], "--tls-roots", str(tmp_path / "absent.pem"))
        damaged = invoke(str(running.server.http_address), *access[:2], "--tls-roots", str(cut))
    assert [(tenant["name"], tenant["rows"]) for tenant in shown["tenants"]] == [("team-a", 1)]
    assert "absent.pem" in str(refused.exception)
    assert "check --tls-roots and --tls-certificate" in str(damaged.exception)


def test_it_is_live_until_ctrl_c() -> None:
    """With --watch, a line of JSON for each interval; Ctrl-C ends it without a traceback."""
    with serving("identity", registry=REGISTRY, http_port=0, workers="thread") as running:
        address = str(running.server.http_address)
        command = [
            sys.executable,
            "-m",
            "midrib.remote.cli",
            "status",
            address,
            "--watch",
            "--interval",
            "0.05",
            "--json",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [json.loads(process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
    assert [line["backbones"][0]["name"] for line in lines] == [NAME] * 2
    assert "Traceback" not in errors


def test_it_stays_live_while_the_server_is_replaced() -> None:
    """With --watch, a line says that nothing answers, until the next server does on the same port."""
    with serving("identity", registry=REGISTRY, http_port=0, workers="thread") as running:
        address = str(running.server.http_address)
        command = [sys.executable, "-m", "midrib.remote.cli", "status", address]
        with_json = [*command, "--watch", "--interval", "0.05", "--json"]
        process = subprocess.Popen(with_json, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        lines = map(json.loads, process.stdout)
        assert "backbones" in next(lines)
    with process:
        errors = (line["error"] for line in lines if "error" in line)
        lost = next(error for error in errors if "start the server with --http-port" in error)
        port = int(address.rpartition(":")[2])
        with serving("identity", registry=REGISTRY, http_port=port, workers="thread"):
            again = next(line for line in lines if "error" not in line)
            process.send_signal(signal.SIGINT)
    assert address in lost
    assert [backbone["name"] for backbone in again["backbones"]] == [NAME]


def test_the_grpc_port_is_said_with_the_remedy() -> None:
    """The two ports of a server are easily confused."""
    with serving("identity", registry=REGISTRY, workers="thread") as running:
        answer = invoke(running.address)
    assert "is not answered in HTTP: give the HTTP port" in str(answer.exception)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param("127.0.0.1:9", r"metrics \(Connection refused\): start the server with", id="refused"),
        pytest.param("no-such-host.invalid:9", r"metrics \([A-Z][^<>]*\): check the host$", id="unknown-host"),
        pytest.param("grpc://127.0.0.1:9", r"grpc://127.0.0.1:9 is not an HTTP address", id="grpc-url"),
        pytest.param("HTTP://127.0.0.1:9/metrics", r"at http://127.0.0.1:9/metrics \(Conn", id="url-of-the-metrics"),
    ],
)
def test_no_server_is_said_with_the_remedy(address: str, message: str) -> None:
    """The status is read over HTTP, which is off by default. The reason is the system's, not the library's."""
    assert re.search(message, str(invoke(address).exception))


class OtherServer(BaseHTTPRequestHandler):
    """Answers /metrics with a page, and /old/metrics with a redirect to it."""

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        moved = self.path.startswith("/old")
        self.send_response(302 if moved else 200)
        self.send_header("Location", "/metrics")
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("", "(invalid metric name:<!doctype html>): start the server with --http-port", id="page"),
        pytest.param("/old", "(HTTP 302): it redirects to /metrics: give the address of the server", id="redirect"),
    ],
)
def test_another_server_is_said_with_the_remedy(path: str, message: str) -> None:
    """A redirect is not followed, because it would send the token to another server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as server:
        threading.Thread(target=server.serve_forever).start()
        answer = invoke(f"127.0.0.1:{server.server_port}{path}", "--token", "secret")
        server.shutdown()
    assert message in str(answer.exception)

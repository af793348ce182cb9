"""The numbers for an operator of many teams: rows of each token, refusals by protocol and reason, the access log."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from midrib.registry import Registry
from midrib.server._admission.tokens import Scope, new_token
from midrib.server._observability.logs import JsonFormatter
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from server.tests.http.calls import JSON, Answer, texts


@pytest.fixture()
def token_file(tmp_path: Path) -> tuple[str, Path]:
    """The token of a team that may do everything, and the file that has its hash."""
    token, entry = new_token("team-a", [Scope.READ, Scope.EMBED])
    path = tmp_path / "tokens.toml"
    path.write_text(entry)
    return token, path


@pytest.fixture()
def counted_server(token_file: tuple[str, Path], test_registry: Registry) -> Iterator[RunningServer]:
    with serving("words", registry=test_registry, http_port=0, tokens=token_file[1]) as running:
        yield running


def metrics(running: RunningServer, token: str) -> list[str]:
    connection = http.client.HTTPConnection(str(running.server.http_address), timeout=20)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return lines


def test_rows_and_items_are_counted_for_each_token(counted_server: RunningServer, token_file: tuple[str, Path]) -> None:
    """The counters add up all protocols."""
    token, _ = token_file
    headers = {**JSON, "Authorization": f"Bearer {token}"}
    Answer(counted_server.server.http_address, {"model": "words", "input": ["a", "b", "c"]}, headers=headers)
    with grpc.insecure_channel(counted_server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(backbone="words", input=texts("a"))
        stub.Embed(request, metadata=[("authorization", f"Bearer {token}")], timeout=10)
    lines = metrics(counted_server, token)
    assert 'midrib_token_rows_total{token="team-a"} 4.0' in lines
    assert 'midrib_token_items_total{outcome="answered",token="team-a"} 2.0' in lines


def test_refusals_are_counted_by_protocol_and_reason(
    counted_server: RunningServer, token_file: tuple[str, Path]
) -> None:
    """Refusals before admission are counted too."""
    token, _ = token_file
    headers = {**JSON, "Authorization": f"Bearer {token}"}
    Answer(counted_server.server.http_address, {"model": "word", "input": "x"}, headers=headers)
    Answer(counted_server.server.http_address, {"model": "words", "input": "x"})
    with grpc.insecure_channel(counted_server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            stub.Embed(embedding_pb2.EmbedRequest(), timeout=10)
    lines = metrics(counted_server, token)
    assert 'midrib_refusals_total{protocol="http",reason="BACKBONE_NOT_FOUND"} 1.0' in lines
    assert 'midrib_refusals_total{protocol="http",reason="UNAUTHENTICATED"} 1.0' in lines
    assert 'midrib_refusals_total{protocol="grpc",reason="UNAUTHENTICATED"} 1.0' in lines


def test_the_process_is_measured(counted_server: RunningServer, token_file: tuple[str, Path]) -> None:
    """The names are those of every Prometheus client."""
    names = {line.split()[0] for line in metrics(counted_server, token_file[0])}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= names


def test_each_request_is_a_line_of_the_access_log(
    token_file: tuple[str, Path], test_registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """With the name of the token, and neither the token itself nor the query."""
    token, path = token_file
    headers = {**JSON, "Authorization": f"Bearer {token}"}
    with serving("words", registry=test_registry, http_port=0, tokens=path, access_log=True) as running:
        Answer(running.server.http_address, {"model": "words", "input": "x"}, headers=headers)
        Answer(running.server.http_address, {}, headers=headers, path="/v1/embeddings?api_key=secret")
    logged = [record for record in caplog.records if record.name == "midrib.server._http.access_log"]
    lines = [json.loads(JsonFormatter().format(record)) for record in logged]
    assert [(line["method"], line["path"], line["status"], line["reason"], line["token"]) for line in lines] == [
        ("POST", "/v1/embeddings", 200, "", "team-a"),
        ("POST", "/v1/embeddings", 400, "INVALID_INPUT", "team-a"),
    ]
    assert lines[0]["bytes"] > 0
    assert all(token not in record.getMessage() + str(record.__dict__) for record in logged)


def test_without_the_setting_nothing_is_logged(fresh_server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    """The log has warnings and worse."""
    caplog.set_level(logging.DEBUG)
    Answer(fresh_server.server.http_address, {"model": "words", "input": "x"})
    assert [record for record in caplog.records if "access" in record.name] == []

"""OpenTelemetry spans of a real server, caught in memory."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from midrib.registry import Registry
from midrib.server._observability.tracing import tracing_for
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
METADATA = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)


@pytest.fixture()
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture()
def traced(test_registry: Registry, spans: InMemorySpanExporter) -> Iterator[RunningServer]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with serving("gate", "words", registry=test_registry, tracer_provider=provider, http_port=0) as running:
        yield running


def rows(value: float, count: int = 1) -> embedding_pb2.Input:
    return embedding_pb2.Input(tensor=encode_tensor(np.full((count, 2), value, np.float32)))


def finished(server: RunningServer, spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the spans by name, once the server has stopped: a call's span ends after its answer is sent."""
    server.run(server.server.stop(1.0))
    return {span.name: span for span in spans.get_finished_spans()}


def test_a_call_continues_its_callers_trace(traced: RunningServer, spans: InMemorySpanExporter) -> None:
    """W3C's trace context in the metadata names the parent; queue and compute are the children."""
    with grpc.insecure_channel(traced.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(backbone="gate", input=rows(1, 3), priority=embedding_pb2.PRIORITY_BULK)
        revision = stub.Embed(request, timeout=10, metadata=METADATA).revision
    by_name = finished(traced, spans)
    call, queue, compute = by_name["midrib.v1.EmbeddingService/Embed"], by_name["queue"], by_name["compute"]
    assert call.parent is not None
    assert (f"{call.context.trace_id:032x}", f"{call.parent.span_id:016x}") == (TRACE, PARENT)
    assert (call.kind, dict(call.attributes or {})["rpc.grpc.status_code"]) == (SpanKind.SERVER, 0)
    assert [span.parent and span.parent.span_id for span in (queue, compute)] == [call.context.span_id] * 2
    assert dict(compute.attributes or {}) == {
        "midrib.backbone": "test/embedding/gate",
        "midrib.revision": revision,
        "midrib.rows": 3,
        "midrib.priority": "bulk",
        "midrib.batch_rows": 3,
    }
    assert queue.end_time == compute.start_time


def test_every_item_of_a_stream_has_its_spans(traced: RunningServer, spans: InMemorySpanExporter) -> None:
    """They are children of the stream's span."""
    talk = [embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="gate"))]
    items = [embedding_pb2.Item(id=number, input=rows(number)) for number in range(3)]
    talk += [embedding_pb2.EmbedStreamRequest(item=item) for item in items]
    with grpc.insecure_channel(traced.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        assert len(list(stub.EmbedStream(iter(talk), timeout=10))) == 4
    stream = finished(traced, spans)["midrib.v1.EmbeddingService/EmbedStream"].context.span_id
    children = [span.name for span in spans.get_finished_spans() if span.parent and span.parent.span_id == stream]
    assert sorted(children) == ["compute"] * 3 + ["queue"] * 3


@pytest.mark.parametrize(
    ("model", "status", "children"),
    [pytest.param("words", 200, ["compute", "queue"], id="answered"), pytest.param("nobody", 404, [], id="refused")],
)
def test_http_is_traced_too(
    traced: RunningServer, spans: InMemorySpanExporter, model: str, status: int, children: list[str]
) -> None:
    """The header names the parent, and the span has the status, also of a refusal."""
    connection = http.client.HTTPConnection(traced.server.http_address or "", timeout=10)
    headers = {"Content-Type": "application/json", "Traceparent": METADATA[0][1]}
    connection.request("POST", "/v1/embeddings", json.dumps({"model": model, "input": "a word"}), headers)
    connection.getresponse().read()
    connection.close()
    call = finished(traced, spans)["POST /v1/embeddings"]
    assert (f"{call.context.trace_id:032x}", dict(call.attributes or {})) == (
        TRACE,
        {"http.request.method": "POST", "http.route": "/v1/embeddings", "http.response.status_code": status},
    )
    below = [s.name for s in spans.get_finished_spans() if s.parent and s.parent.span_id == call.context.span_id]
    assert sorted(below) == children


def test_a_failing_item_marks_its_spans(traced: RunningServer, spans: InMemorySpanExporter) -> None:
    """The error is the one that the caller sees, with the id that the log explains."""
    with grpc.insecure_channel(traced.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="the server's log explains error"):
            stub.Embed(embedding_pb2.EmbedRequest(backbone="gate", input=rows(666)), timeout=10)
    by_name = finished(traced, spans)
    call = by_name["midrib.v1.EmbeddingService/Embed"]
    assert [by_name["compute"].status.status_code, call.status.status_code] == [StatusCode.ERROR] * 2
    assert dict(call.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.INTERNAL.value[0]
    assert "log explains error" in (by_name["compute"].status.description or "")


def test_the_variables_choose_the_exporter() -> None:
    """`console` is one that comes with the SDK."""
    tracing = tracing_for(None, {"OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "mine"})
    assert tracing is not None
    tracing.close()


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"OTEL_TRACES_EXPORTER": "none"}, id="none"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, id="disabled"),
    ],
)
def test_no_traces_unless_they_are_asked_for(environment: dict[str, str]) -> None:
    """The usual variables of OpenTelemetry turn them on."""
    assert tracing_for(None, environment) is None


def test_a_missing_exporter_is_said() -> None:
    """With the way to get it."""
    with pytest.raises(ImportError, match="pip install opentelemetry-exporter-zipkin"):
        tracing_for(None, {"OTEL_TRACES_EXPORTER": "zipkin"})


def test_a_server_without_traces_imports_nothing_of_them() -> None:
    """They cost nothing then, and do not have to be installed."""
    code = "import sys, json, midrib.server._server; print(json.dumps([m for m in sys.modules if 'telemetry' in m]))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(ran.stdout) == []

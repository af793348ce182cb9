"""OpenTelemetry spans of calls and of their items. Imported only where traces are configured.

A call's span continues the trace of its metadata or headers (W3C's `traceparent`, or what OTEL_PROPAGATORS says). Each
of its items has two children, made once its batch is done: `queue` and `compute`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from midrib.server._engine.item import CURRENT_TRACE, Item, Outcome
from midrib.server._engine.served_backbone import ServedBackbone

_SPEC = "midrib.server"
_FLUSH_MS = 5000


class Tracing:
    """Makes the spans of one server.

    provider: where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_SPEC)

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, Any]) -> Iterator[Span]:
        """The span of one call; the items made within are its children. method: "/package.Service/Method"."""
        service, _, name = method.lstrip("/").rpartition("/")
        texts = {key: value for key, value in metadata.items() if isinstance(value, str)}
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        with self._serving(f"{service}/{name}", texts, attributes) as span:
            yield span

    @contextmanager
    def request(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of one HTTP request, likewise. route: the path's pattern; empty where there is none."""
        attributes = {"http.request.method": method, "http.route": route}
        lower = {name.lower(): value for name, value in headers.items()}
        with self._serving(f"{method} {route}".rstrip(), lower, attributes) as span:
            yield span

    @contextmanager
    def _serving(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, str]) -> Iterator[Span]:
        context = propagate.extract(carrier)
        span = self._tracer.start_span(name, context=context, kind=SpanKind.SERVER, attributes=attributes)
        token = CURRENT_TRACE.set(span)
        try:
            yield span
        finally:
            CURRENT_TRACE.reset(token)
            span.end()

    def observe_batch(
        self,
        served: ServedBackbone,
        batch: Sequence[Item],
        outcomes: Sequence[Outcome | Exception],
        compute_s: float,
    ) -> None:
        """The spans of a batch that has just been computed, for those of its items whose calls have one."""
        end = time.time_ns()
        start = end - int(compute_s * 1e9)
        rows = sum(item.rows for item in batch)
        for item, outcome in zip(batch, outcomes, strict=True):
            if item.trace is None:
                continue
            attributes = _attributes(served, item)
            waited = outcome.queue_s if isinstance(outcome, Outcome) else 0.0
            self._span("queue", item.trace, start - int(waited * 1e9), start, attributes)
            self._span("compute", item.trace, start, end, {**attributes, "midrib.batch_rows": rows}, outcome)

    def close(self) -> None:
        """Hand over what has not been exported yet; it may take a few seconds."""
        if isinstance(self._provider, SdkTracerProvider):
            self._provider.force_flush(_FLUSH_MS)

    def _span(  # - a span's own parts
        self,
        name: str,
        parent: Span,
        start: int,
        end: int,
        attributes: Mapping[str, Any],
        outcome: Outcome | Exception | None = None,
    ) -> None:
        span = self._tracer.start_span(
            name, context=trace.set_span_in_context(parent), start_time=start, attributes=attributes
        )
        if isinstance(outcome, Exception):
            span.set_status(Status(StatusCode.ERROR, str(outcome)))
        span.end(end)


def provider_of_program() -> TracerProvider | None:
    """The provider that the program has set up (as `opentelemetry-instrument` does); None where it has none."""
    present = trace.get_tracer_provider()
    return None if isinstance(present, trace.ProxyTracerProvider) else present


def provider_of(environment: Mapping[str, str]) -> TracerProvider | None:
    """The provider that the usual OTEL_ variables ask for; None where OTEL_TRACES_EXPORTER is "none".

    Raises ImportError where an exporter that is asked for is not installed.
    """
    named = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    exporters = [name for name in map(str.strip, named.split(",")) if name != "none"]
    if not exporters:
        return None
    own = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = SdkTracerProvider(resource=Resource.create({} if own else {SERVICE_NAME: "midrib"}))
    for name in exporters:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    return provider


def _exporter(name: str) -> Any:
    found = [*entry_points(group="opentelemetry_traces_exporter", name=name)]
    if not found:
        raise ImportError(
            f"traces are to be exported by {name!r}, and no such exporter is installed: "
            f"pip install opentelemetry-exporter-{name}, or set OTEL_TRACES_EXPORTER=none"
        )
    return found[0].load()()


def _attributes(served: ServedBackbone, item: Item) -> dict[str, Any]:
    return {
        "midrib.backbone": served.description.name,
        "midrib.revision": served.description.revision,
        "midrib.rows": item.rows,
        "midrib.priority": item.priority.name.lower(),
    }

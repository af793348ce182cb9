"""OpenTelemetry spans of calls and of their items. OpenTelemetry is imported only if traces are configured.

A call's span continues the trace of its metadata or headers (W3C's `traceparent`, or the format that OTEL_PROPAGATORS
names). Each of its items has two children, made once its batch is done: `queue` and `compute`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from midrib.server._engine.item import CURRENT_TRACE, Item, Outcome
from midrib.server._engine.served_backbone import ServedBackbone

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

_INSTRUMENTATION = "midrib.server"
_FLUSH_MS = 5000
_VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def tracing_for(provider: TracerProvider | None, environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return the tracing of a server; None if no traces are configured.

    The spans go to the provider, or else to the one that the program has set up (as `opentelemetry-instrument` does),
    or to the exporters that the OTEL_ variables name.
    Raises ImportError, with the remedy, if traces are configured and a library for them is missing.
    """
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    configured = not disabled and any(environment.get(name) for name in _VARIABLES)
    if provider is None and not configured and "opentelemetry.trace" not in sys.modules:
        return None
    try:
        provider = provider or _provider_of_program() or (_provider_of(environment) if configured else None)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the OTEL_ variables ask for traces, which need OpenTelemetry ({error}): pip install "
            "'midrib-server[traces]', or set OTEL_SDK_DISABLED=true"
        ) from error
    return None if provider is None else Tracing(provider)


class Tracing:
    """Makes the spans of one server.

    provider: receives them.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import propagate, trace

        self._propagate, self._trace = propagate, trace
        self._provider = provider
        self._tracer = provider.get_tracer(_INSTRUMENTATION)

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, Any]) -> Iterator[Span]:
        """Return the span of one call, as a context; the items made within it are its children.

        method: "/package.Service/Method".
        """
        service, _, name = method.lstrip("/").rpartition("/")
        texts = {key: value for key, value in metadata.items() if isinstance(value, str)}
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        with self._serving(f"{service}/{name}", texts, attributes) as span:
            yield span

    @contextmanager
    def request(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """Return the span of one HTTP request, as a context. route: the path's pattern; empty for an unknown path."""
        attributes = {"http.request.method": method, "http.route": route}
        lower = {name.lower(): value for name, value in headers.items()}
        with self._serving(f"{method} {route}".rstrip(), lower, attributes) as span:
            yield span

    @contextmanager
    def _serving(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, str]) -> Iterator[Span]:
        context = self._propagate.extract(carrier)
        span = self._tracer.start_span(name, context=context, kind=self._trace.SpanKind.SERVER, attributes=attributes)
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
        """Make the spans of a batch that has just been computed, for those of its items whose calls have one."""
        end = time.time_ns()
        start = end - int(compute_s * 1e9)
        rows = sum(item.rows for item in batch)
        for item, outcome in zip(batch, outcomes, strict=True):
            if item.trace is None:
                continue
            attributes = _attributes(served, item)
            waited = outcome.queue_s if isinstance(outcome, Outcome) else 0.0
            self._span("queue", item.trace, start - int(waited * 1e9), attributes).end(start)
            compute = self._span("compute", item.trace, start, {**attributes, "midrib.batch_rows": rows})
            if isinstance(outcome, Exception):
                compute.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(outcome)))
            compute.end(end)

    def close(self) -> None:
        """Export the spans that have not been exported yet; it may take a few seconds."""
        flush = getattr(self._provider, "force_flush", None)  # only the SDK's provider has it
        if flush is not None:
            flush(_FLUSH_MS)

    def _span(self, name: str, parent: Span, start_ns: int, attributes: Mapping[str, Any]) -> Span:
        context = self._trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context=context, start_time=start_ns, attributes=attributes)


def _provider_of_program() -> TracerProvider | None:
    """Return the provider that the program has set up; None if it has none."""
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def _provider_of(environment: Mapping[str, str]) -> TracerProvider | None:
    """Return a provider for the exporters that the OTEL_ variables name; None if OTEL_TRACES_EXPORTER is "none".

    Raises ImportError if one of them is not installed.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    listed = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    exporters = [name for name in map(str.strip, listed.split(",")) if name != "none"]
    if not exporters:
        return None
    named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = SdkTracerProvider(resource=Resource.create({} if named else {SERVICE_NAME: "midrib"}))
    for name in exporters:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    return provider


def _exporter(name: str) -> Any:
    """Return the exporter of traces. Raises ImportError if it is not installed."""
    matches = [*entry_points(group="opentelemetry_traces_exporter", name=name)]
    if not matches:
        raise ImportError(
            f"traces are to be exported by {name!r}, and this exporter is not installed: "
            f"pip install opentelemetry-exporter-{name}, or set OTEL_TRACES_EXPORTER=none"
        )
    return matches[0].load()()


def _attributes(served: ServedBackbone, item: Item) -> dict[str, Any]:
    return {
        "midrib.backbone": served.description.name,
        "midrib.revision": served.description.revision,
        "midrib.rows": item.rows,
        "midrib.priority": item.priority.name.lower(),
    }

"""Whether traces are wanted. Nothing of OpenTelemetry is imported where they are not."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from midrib.server._observability.tracing import Tracing

_ASKING = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def tracing_for(provider: TracerProvider | None, environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Spans to a provider, or else to what the program or its OTEL_ variables configured; None where nothing is.

    Raises ImportError, with the remedy, where traces are configured and a library for them is missing.
    """
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    asked = not disabled and any(environment.get(name) for name in _ASKING)
    if provider is None and not asked and "opentelemetry.trace" not in sys.modules:
        return None
    try:
        from midrib.server._observability import tracing
    except ModuleNotFoundError as error:
        raise ImportError(
            "the OTEL_ variables ask for traces, and these need OpenTelemetry: pip install 'midrib-server[traces]', or "
            "set OTEL_SDK_DISABLED=true"
        ) from error
    provider = provider or tracing.provider_of_program()
    if provider is None and asked:
        provider = tracing.provider_of(environment)
    return None if provider is None else tracing.Tracing(provider)

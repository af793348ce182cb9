"""Makes a gRPC server with its limits, its TLS and its guard."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

import grpc
from prometheus_client.registry import Collector

from midrib.server._admission.element_count import ElementLimits
from midrib.server._admission.tls import TlsFiles, server_credentials
from midrib.server._admission.tokens import AccessTokens
from midrib.server._front.limits import FrontLimits
from midrib.server._front.listener import tls_of
from midrib.server._front.processes.server import FrontProcesses
from midrib.server._front.server import FrontServer
from midrib.server._grpc.decoding import RequestLimits
from midrib.server._grpc.errors import count_refusal
from midrib.server._grpc.guard import EMBEDDING_METHODS, Guard
from midrib.server._settings import MEBI, Settings

if TYPE_CHECKING:
    from midrib.server._observability.tracing import Tracing


# The bytes that a call may send while it is not being read. By default gRPC allows as many as it measured for the
# connection: on a fast one, tens of megabytes for every client that floods.
_AHEAD_BYTES = MEBI
# An audio clip has the most fields of a row: itself, its type, its shape, a dimension and its data.
_FIELDS_PER_ROW = 8
_FIELDS_BESIDE_ROWS = 1024
_MAX_SMALL_REQUEST_BYTES = 64 * 1024
# Calls that wait for the event loop to accept them. gRPC cancels the calls beyond it, 1,000 by default, without a
# status that a client may retry. Each keeps its headers, up to 90 kB of memory, also once its client has left.
_MAX_PENDING_CALLS = 8192


AnyServer: TypeAlias = grpc.aio.Server | FrontServer | FrontProcesses


def grpc_server(settings: Settings, tokens: AccessTokens | None, tracing: Tracing | None = None) -> AnyServer:
    """Return a server without services, with the limits of the settings, and with a guard if there are tokens."""
    chain = interceptors(settings, tokens, tracing)
    if settings.front == "asyncio":
        return _front_server(settings, chain)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_quotes_no_header)
    return grpc.aio.server(interceptors=chain, options=_options(settings))


def _quotes_no_header(record: logging.LogRecord) -> bool:
    """Return False for grpcio's record of a header that is not UTF-8: it quotes the value, which may be a token."""
    return not str(record.msg).startswith("Invalid encoding")


def interceptors(
    settings: Settings, tokens: AccessTokens | None, tracing: Tracing | None = None
) -> list[grpc.aio.ServerInterceptor]:
    """Return the interceptors of every call, in this order: traces, the access log, and the guard."""
    chain: list[grpc.aio.ServerInterceptor] = []
    if tracing is not None:
        from midrib.server._grpc.interceptors.tracing import TracingInterceptor

        chain.append(TracingInterceptor(tracing))
    if settings.access_log:
        from midrib.server._grpc.interceptors.access_log import AccessLogInterceptor

        chain.append(AccessLogInterceptor())
    if tokens is not None:
        chain.append(Guard(tokens, public_health=settings.public_health))
    return chain


def add_port(server: AnyServer, settings: Settings, address: str) -> int:
    """Listen on "host:port", with TLS if the settings have a certificate; return the port.

    Raises ConnectionError if the address is in use, OSError if a certificate file cannot be read.
    """
    files = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        files = TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    try:
        if isinstance(server, grpc.aio.Server):
            if files is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, server_credentials(files))
    except RuntimeError as error:
        raise _not_available(address) from error
    tls = None if files is None else tls_of(files)
    try:
        return server.add_port(address, tls)
    except OSError as error:
        raise _not_available(address) from error


def _not_available(address: str) -> ConnectionError:
    return ConnectionError(
        f"cannot listen on {address}: is another server there? Choose another port, or 0 for a free one"
    )


def metrics_of(server: AnyServer) -> Collector | None:
    """Return the metrics of the processes that carry a server's connections; None if there are none."""
    return server.metrics if isinstance(server, FrontProcesses) else None


def request_limits(settings: Settings) -> RequestLimits:
    """Return the number of elements and bytes that a request may have: a few for each row, and a tensor's numbers."""
    elements = ElementLimits(
        max_fields=_FIELDS_PER_ROW * settings.max_batch_rows + _FIELDS_BESIDE_ROWS,
        max_numbers=settings.max_batch_elements,
    )
    return RequestLimits(
        elements,
        small_bytes=_small_request_bytes(settings),
        data_methods=EMBEDDING_METHODS,
        max_unread_s=settings.max_unread_s,
        has_tokens=settings.tokens is not None,
    )


def _small_request_bytes(settings: Settings) -> int:
    return min(_MAX_SMALL_REQUEST_BYTES, settings.max_message_bytes)


def _front_server(settings: Settings, chain: list[grpc.aio.ServerInterceptor]) -> FrontServer | FrontProcesses:
    limits = FrontLimits(
        max_message_bytes=settings.max_message_bytes,
        max_metadata_bytes=settings.max_metadata_bytes,
        max_streams=settings.max_connection_streams,
        idle_s=settings.max_connection_idle_s,
        age_s=settings.max_connection_age_s,
        age_grace_s=settings.drain_grace_s,
        min_ping_interval_s=settings.min_ping_interval_s,
        small_methods_bytes=_small_request_bytes(settings),
        data_methods=sorted(EMBEDDING_METHODS),
    )
    if settings.fronts > 1:
        return FrontProcesses(limits, chain, number=settings.fronts, refused=count_refusal)
    return FrontServer(limits, chain, refused=count_refusal)


def _options(settings: Settings) -> list[tuple[str, int]]:
    options = {
        "grpc.max_receive_message_length": settings.max_message_bytes,
        "grpc.max_send_message_length": settings.max_message_bytes,
        "grpc.max_metadata_size": settings.max_metadata_bytes,
        "grpc.absolute_max_metadata_size": settings.max_metadata_bytes,
        "grpc.max_concurrent_streams": settings.max_connection_streams,
        "grpc.max_connection_idle_ms": _milliseconds(settings.max_connection_idle_s),
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_ping_interval_without_data_ms": _milliseconds(settings.min_ping_interval_s),
        "grpc.http2.max_ping_strikes": 2,
        "grpc.http2.bdp_probe": 0,
        "grpc.http2.lookahead_bytes": _AHEAD_BYTES,
        "grpc.server.max_pending_requests": _MAX_PENDING_CALLS,
        "grpc.server.max_pending_requests_hard_limit": _MAX_PENDING_CALLS,
        # A second server on the port would take every other connection: refuse to start instead.
        "grpc.so_reuseport": 0,
    }
    if settings.max_connection_age_s is not None:
        options["grpc.max_connection_age_ms"] = _milliseconds(settings.max_connection_age_s)
        options["grpc.max_connection_age_grace_ms"] = _milliseconds(settings.drain_grace_s)
    return list(options.items())


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), 2**31 - 1)

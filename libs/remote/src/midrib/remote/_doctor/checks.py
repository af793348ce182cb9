"""`doctor`: checks of everything between this machine and a served backbone, each with a verdict and a fix."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Final

import numpy as np
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from midrib.remote._clients.options import FeatureOptions
from midrib.remote._connect.address import Endpoint, TlsLike, endpoint_from, split_url
from midrib.remote._connect.backbone_calls import BackboneCalls
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._connect.diagnosis import proxy_set
from midrib.remote._doctor.network import Verdict, network
from midrib.remote._items.rows import tensor_rows
from midrib.remote._stream.request import CallPolicy
from midrib.remote._stream.session import CallSession, session_for
from midrib.wire import (
    DeadlineExceededError,
    MidribError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

_PROBES: Final = 10
_BULK_BYTES: Final = 4 << 20
_SLOW_MS: Final = 20.0
_SMALL_MESSAGE_BYTES: Final = 4 << 20
_SERVING: Final = 1  # grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING


def doctor(url: str, *, timeout: float = 5.0, token: str | None = None, tls: TlsLike = None) -> list[Verdict]:
    """Check the connection to a served backbone, from its address to the bandwidth.

    The checks: address, name resolution, TCP, TLS, gRPC, token, health, the backbone and its revision, message limits,
    latency, bandwidth (with or without shared memory). They end with the first failure that makes the next checks
    pointless; of several addresses one that works is enough to go on. No failure is raised.
    url: grpc://host:port/namespace/name.  timeout: seconds for each check.
    """
    return list(verdicts_on(url, timeout=timeout, token=token, tls=tls))


def verdicts_on(url: str, *, timeout: float, token: str | None = None, tls: TlsLike = None) -> Iterator[Verdict]:
    """Yield each verdict of `doctor` as soon as it is known."""
    try:
        address, name = split_url(url)
        endpoint = endpoint_from(address, token=token, tls=tls)
    except (MidribError, OSError) as error:
        yield Verdict("address", False, str(error), "write grpc://host:port/namespace/name")
        return
    yield Verdict("address", True, f"{endpoint}, backbone {name}")
    reached = False
    for server in endpoint.addresses:
        for verdict in network(endpoint, server, timeout):
            yield verdict
        reached = reached or verdict.ok
    if reached:
        yield from _server(endpoint, name, timeout)


def _server(endpoint: Endpoint, name: str, timeout: float) -> Iterator[Verdict]:
    """Yield the verdicts on gRPC, then on the server's descriptions, then on its speed."""
    servers = BackboneCalls(endpoint, timeout)
    try:
        info = servers.run(lambda: servers.describe(name))
    except MidribError as error:
        yield Verdict(_failed_check(error), False, str(error), _fix(error, endpoint))
        return
    yield Verdict("grpc", True, "with TLS" if endpoint.tls is not None else "without TLS")
    yield Verdict("token", True, "accepted" if endpoint.token else "none sent, none required")
    yield _health(servers, info.name)  # the health service knows full names only
    yield _backbone(info)
    yield Verdict("revision", True, f"{info.revision}: revision= insists on it")
    if info.state == "ready":
        yield _limits(info)
        yield _latency(servers, info)
        yield _bandwidth(_session(servers, info), info, servers.timeout)


def _failed_check(error: MidribError) -> str:
    if isinstance(error, UnauthenticatedError | PermissionDeniedError):
        return "token"
    return "grpc" if isinstance(error, UnavailableError) or error.default_reason != "BACKBONE_NOT_FOUND" else "backbone"


def _fix(error: MidribError, endpoint: Endpoint) -> str:
    if isinstance(error, UnauthenticatedError | PermissionDeniedError):
        return "pass token=, or set MIDRIB_TOKEN"
    if not isinstance(error, UnavailableError | DeadlineExceededError):
        scheme = "grpc" if endpoint.tls is None else "grpcs"
        return f"`midrib list --server {scheme}://{endpoint.addresses[0]}` shows the backbones of this server"
    proxy = proxy_set()
    if proxy is not None:
        return f"a proxy is set ({proxy}): try again with no_proxy=<host>"
    if endpoint.tls is None:
        return "it may want TLS (grpcs://), not be a gRPC server, or be behind a proxy that does not pass HTTP/2"
    return "it may want a certificate of this client (--tls-certificate, or tls=Tls(...)), or not be a gRPC server"


def _health(servers: BackboneCalls, name: str) -> Verdict:
    try:
        # HealthCheckRequest has the bytes of a StringValue, HealthCheckResponse those of an Int32Value.
        status = servers.run(
            lambda: servers.invoke("/grpc.health.v1.Health/Check", StringValue(value=name), Int32Value)
        )
    except UnsupportedError:
        return Verdict("health", True, "this server has no health service")
    except MidribError as error:
        return Verdict("health", False, str(error), "the server does not know this backbone yet: wait, or load it")
    if status.value == _SERVING:
        return Verdict("health", True, "serving")
    return Verdict("health", False, "not serving", "the backbone is loading, draining or failed: see the server's log")


def _backbone(info: BackboneInfo) -> Verdict:
    detail = f"{info.name} {info.state} on {info.device}, {info.compute_dtype}"
    return Verdict("backbone", info.state == "ready", detail, "" if info.state == "ready" else info.error or "wait")


def _limits(info: BackboneInfo) -> Verdict:
    detail = f"{info.max_message_bytes} bytes a message, {info.max_rows} rows, {info.max_stream_items} items in flight"
    ok = info.max_message_bytes >= _SMALL_MESSAGE_BYTES
    return Verdict("limits", ok, detail, "" if ok else "raise the server's max_message_bytes: large rows will not fit")


def _latency(servers: BackboneCalls, info: BackboneInfo) -> Verdict:
    times = []
    for _ in range(_PROBES):
        began = time.perf_counter()
        servers.run(lambda: servers.describe(info.name))
        times.append(1e3 * (time.perf_counter() - began))
    median = statistics.median(times)
    fix = "" if median < _SLOW_MS else "send larger batches, or use embed_stream: they hide the round trip"
    return Verdict("latency", True, f"{median:.1f} ms a call (median of {_PROBES}, slowest {max(times):.1f})", fix)


def _session(servers: BackboneCalls, info: BackboneInfo) -> CallSession:
    spec = FeatureOptions(revision=info.revision).spec(info)
    return session_for(servers.endpoint, spec, info, CallPolicy(servers.timeout))


def _bandwidth(session: CallSession, info: BackboneInfo, timeout: float) -> Verdict:
    """Embed a batch of ones, of a few megabytes. A batch that takes too long is not a failure: the server is slow."""
    shape = tuple(16 if size is None else size for size in info.takes.tensor.shape)
    row = np.ones(shape, info.takes.tensor.dtype)
    count = max(1, min(info.max_rows, _BULK_BYTES // row.nbytes, 256))
    before = session.stage_times
    try:
        session.wait(session.submit(tensor_rows(np.broadcast_to(row, (count, *shape)))), timeout)
    except DeadlineExceededError:
        detail = f"{count} rows were not embedded within {timeout:g} s: the server computes slowly, or is busy"
        return Verdict("bandwidth", True, detail, "raise --timeout to measure it")
    except MidribError as error:
        return Verdict("bandwidth", False, str(error), "the backbone refuses its own input: see the server's log")
    step = session.stage_times - before
    rate = step.sent_bytes / max(step.wire_s, 1e-6) / 1e6
    refusal = session.shared_memory_refusal or "the batch is too small"
    route = "through shared memory" if step.shared_items else f"on the network (shared memory is not used: {refusal})"
    detail = f"{rate:.0f} MB/s {route}, {step.compute_s / count * 1e3:.2f} ms a row to compute"
    return Verdict("bandwidth", True, detail)

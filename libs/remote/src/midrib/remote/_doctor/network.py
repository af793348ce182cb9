"""The doctor's checks below gRPC: name resolution, TCP and TLS."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from midrib.remote._connect.address import Endpoint, Tls
from midrib.remote._connect.diagnosis import proxy_set


@dataclass(frozen=True)
class Verdict:
    """The result of one check: whether it passed, its findings, and the fix if it failed."""

    check: str
    ok: bool
    detail: str
    fix: str = ""


def network(endpoint: Endpoint, address: str, timeout: float) -> Iterator[Verdict]:
    """Yield the verdicts on one address, up to the first check that fails. timeout: seconds for each check."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        entries = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        yield Verdict("resolve", False, f"{host}: {error}", "check the name, or use the machine's IP address")
        return
    yield Verdict("resolve", True, f"{host} is {', '.join(sorted({str(entry[4][0]) for entry in entries}))}")
    began = time.perf_counter()
    try:
        connection = socket.create_connection((host, int(port)), timeout)
    except OSError as error:
        yield Verdict("tcp", False, f"{address}: {error}", _tcp_fix())
        return
    with closing(connection):
        yield Verdict("tcp", True, f"{address} accepts after {1e3 * (time.perf_counter() - began):.1f} ms")
        yield _handshake(connection, endpoint.tls, host)


def _handshake(connection: socket.socket, tls: Tls | None, host: str) -> Verdict:
    if tls is None:
        return Verdict("tls", True, "off, as grpc:// says")
    try:
        with _secured(connection, tls, host) as secured:
            until = dict(secured.getpeercert() or {}).get("notAfter", "?")
            return Verdict("tls", True, f"{secured.version()}, the certificate is trusted and valid until {until}")
    except OSError as error:
        return Verdict("tls", False, f"{type(error).__name__}: {error}", _tls_fix(error))


def _secured(connection: socket.socket, tls: Tls, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=tls.roots)
    context.set_alpn_protocols(["h2"])
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context.wrap_socket(connection, server_hostname=host)


def _tcp_fix() -> str:
    proxy = proxy_set()
    behind = f"; {proxy} is set, so gRPC may reach it although this check cannot" if proxy else ""
    return f"start a server there with `midrib serve`, or open the port{behind}"


def _tls_fix(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if "Hostname mismatch" in str(error) or "IP address mismatch" in str(error):
            return "call the server by the name that its certificate is issued to"
        return "pass the authority's certificate: --tls-roots roots.pem, or tls="
    return "the server does not speak TLS: use grpc://, or start it with a certificate"

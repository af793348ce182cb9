"""The doctor's checks below gRPC: name resolution, TCP, TLS, and whether the connection answers a ping."""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.diagnosis import proxy_set

# RFC 9113: the preface, empty settings, and a ping with eight bytes of our own.
_PING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4)) + bytes(5) + bytes((0, 0, 8, 6)) + bytes(13)
_HEAD_BYTES: Final = 9
_FRAME_BYTES: Final = 16384
_IS_PING, _IS_ANSWER = 6, 1


@dataclass(frozen=True)
class Verdict:
    """One check: whether it passed, what was seen, and what to do where it did not."""

    check: str
    ok: bool
    detail: str
    fix: str = ""


def network(endpoint: Endpoint, address: str, timeout: float) -> Iterator[Verdict]:
    """The checks of one address, to the first that fails."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        yield Verdict("resolve", False, f"{host}: {error}", "check the name, or use the machine's IP address")
        return
    yield Verdict("resolve", True, f"{host} is {', '.join(sorted({str(entry[4][0]) for entry in found}))}")
    began = time.perf_counter()
    try:
        connection = socket.create_connection((host, int(port)), timeout)
    except OSError as error:
        yield Verdict("tcp", False, f"{address}: {error}", _no_tcp())
        return
    with closing(connection):
        yield Verdict("tcp", True, f"{address} accepts after {1e3 * (time.perf_counter() - began):.1f} ms")
        yield from _spoken(connection, endpoint, host)


def _spoken(connection: socket.socket, endpoint: Endpoint, host: str) -> Iterator[Verdict]:
    try:
        speaking = _tls(connection, endpoint, host) if endpoint.roots is not None else connection
    except OSError as error:
        yield Verdict("tls", False, f"{type(error).__name__}: {error}", _tls_fix(error))
        return
    with closing(speaking):  # the socket below belongs to it now
        yield _spoken_tls(speaking)
        yield _keepalive(speaking, endpoint)


def _spoken_tls(connection: socket.socket) -> Verdict:
    if not isinstance(connection, ssl.SSLSocket):
        return Verdict("tls", True, "off, as grpc:// says")
    until = dict(connection.getpeercert() or {}).get("notAfter", "?")
    return Verdict("tls", True, f"{connection.version()}, the certificate is trusted and valid until {until}")


def _keepalive(connection: socket.socket, endpoint: Endpoint) -> Verdict:
    began = time.perf_counter()
    try:
        answered = _ping(connection)
    except OSError as error:
        return Verdict("keepalive", False, f"no answer to an HTTP/2 ping: {error}", _ping_fix(endpoint))
    if not answered:
        return Verdict("keepalive", False, "an HTTP/2 ping ended the connection", _ping_fix(endpoint))
    took_ms = 1e3 * (time.perf_counter() - began)
    return Verdict("keepalive", True, f"an HTTP/2 ping is answered after {took_ms:.1f} ms")


def _tls(connection: socket.socket, endpoint: Endpoint, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=(endpoint.roots or b"").decode() or None)
    context.set_alpn_protocols(["h2"])
    if endpoint.client_certificate is not None:
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # Python's ssl reads certificates from files only
            file.write(b"\n".join(endpoint.client_certificate))
            file.flush()
            context.load_cert_chain(file.name)
    return context.wrap_socket(connection, server_hostname=host)


def _ping(connection: socket.socket) -> bool:
    """Whether the other side answers; False where it speaks something else, or hangs up."""
    connection.sendall(_PING)
    with connection.makefile("rb") as frames:
        while len(head := frames.read(_HEAD_BYTES)) == _HEAD_BYTES:
            if head[3] == _IS_PING and head[4] & _IS_ANSWER:
                return True
            size = int.from_bytes(head[:3], "big")
            if size > _FRAME_BYTES:
                return False
            frames.read(size)
    return False


def _no_tcp() -> str:
    proxy = proxy_set()
    behind = f"; {proxy} is set, so gRPC may reach it where this check cannot" if proxy else ""
    return f"start a server there with `midrib serve`, or open the port{behind}"


def _tls_fix(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if "Hostname mismatch" in str(error) or "IP address mismatch" in str(error):
            return "call the server by the name that its certificate is made out to"
        return "pass the authority's certificate: --tls-roots roots.pem, or tls="
    return "the server speaks no TLS: use grpc://, or start it with a certificate"


def _ping_fix(endpoint: Endpoint) -> str:
    if endpoint.roots is None:
        return "it may want TLS (grpcs://), or be no gRPC server, or stand behind a proxy that does not pass HTTP/2"
    return "it may want a certificate of this client (--tls-certificate, or tls=Tls(...)), or be no gRPC server"

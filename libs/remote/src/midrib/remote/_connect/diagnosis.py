"""What a broken connection means, told by gRPC's own text: one cause, and what to do."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from midrib.wire import UnavailableError

# Those that gRPC obeys, in its order.
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")


@dataclass(frozen=True)
class _Cause:
    """signs: a pattern in the lower-cased text.  says: of {address}; the text itself follows."""

    signs: str
    reason: str
    says: str


# The first that fits is told, so the narrower stand before the wider.
_CAUSES: Final = (
    _Cause(
        "certificate_verify_failed",
        "TLS_FAILED",
        "the certificate of {address} is not signed by the authorities trusted here: pass tls=<its roots.pem>",
    ),
    _Cause(
        "hostname verification|match found for server name",
        "TLS_FAILED",
        "the certificate of {address} is made out to another name: call the server by that one",
    ),
    _Cause("wrong_version_number", "TLS_FAILED", "{address} does not speak TLS: use grpc://, or give it a certificate"),
    _Cause(
        r"\bssl|\btls|certificate|tsi_",
        "TLS_FAILED",
        "TLS with {address} failed: check grpcs://, tls= and the server's certificate",
    ),
    _Cause(
        "handshake timed out|timed out before receiving settings|connect(ion)? timed? ?out|tcp handshaker shutdown",
        "CONNECT_TIMEOUT",
        "{address} did not complete the connection in time: the next attempt takes longer",
    ),
    _Cause("dns|resolv", "NO_SERVER", "{address} cannot be resolved: check the name"),
    _Cause("http proxy", "PROXY", "a proxy stands before {address} and does not let it through: set no_proxy"),
    _Cause(
        "http2 header with status|parsing http/2",
        "PROXY",
        "what answers at {address} is no gRPC server, or a proxy that does not pass gRPC: check the port, set no_proxy",
    ),
    _Cause(
        r"all (backends|addresses).*(socket closed|connection reset)",
        "CLOSED_AT_ONCE",
        "{address} closes every connection at once: it may want TLS (grpcs://), or a certificate of this client "
        "(tls=Tls(...)), or be no gRPC server",
    ),
    _Cause(
        "connect.*(refused|failed)",
        "NO_SERVER",
        "no server answers at {address}: start one with `midrib serve`, or check the address",
    ),
)
# These an UnavailableError may have for ever: time alone seldom mends them.
NOBODY: Final = frozenset(cause.reason for cause in _CAUSES)


def broken(text: str, address: str) -> UnavailableError:
    """The error for a connection that gRPC lost, or could not make, with this text."""
    lower = text.lower()
    for cause in _CAUSES:
        if re.search(cause.signs, lower):
            said = f"{cause.says.format(address=address)} ({text}){_by_proxy(cause.reason)}"
            return UnavailableError(said, reason=cause.reason)
    return UnavailableError(f"the connection to {address} broke: {text}", reason="CONNECTION_LOST")


def proxy_set() -> str | None:
    """The variable that sends gRPC through a proxy, where one is set."""
    return next((name for name in _PROXIES if os.environ.get(name)), None)


def _by_proxy(reason: str) -> str:
    name = proxy_set() if reason != "TLS_FAILED" else None
    return f"; {name} is set: set no_proxy as well if this address needs no proxy" if name else ""

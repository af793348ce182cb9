"""The cause of a broken connection, found in gRPC's text, and its remedy."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from midrib.wire import UnavailableError

# In the text of Ray Serve's ingress for a call that it can pass to no application. The status is NOT_FOUND.
RAY_INGRESS: Final = "/ray.serve.rayserveapiservice/"
# In gRPC's text for a call that is reset with ENHANCE_YOUR_CALM: its connection holds as many as it may.
CALL_REFUSED: Final = "rst_stream with error code 11"
# The variables that gRPC reads, in its order.
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")


@dataclass(frozen=True)
class Cause:
    """A kind of failure.

    pattern: of the lower-cased text.  message: with {address}; gRPC's text is added to it.
    passing: it may end by waiting, so a call tries again until its deadline.
    """

    pattern: str
    reason: str
    message: str
    passing: bool = False


# The first match is used, so narrow patterns come before wide ones.
CAUSES: Final = (
    Cause(
        "certificate_verify_failed",
        "TLS_FAILED",
        "the certificate of {address} is not signed by the authorities trusted here: pass tls=<its roots.pem>, "
        "or --tls-roots to the command",
    ),
    Cause(
        "hostname verification|match found for server name",
        "TLS_FAILED",
        "the certificate of {address} is issued to another name: call the server by that name",
    ),
    Cause("wrong_version_number", "TLS_FAILED", "{address} does not speak TLS: use grpc://, or give it a certificate"),
    Cause(
        r"\bssl|\btls|certificate|tsi_",
        "TLS_FAILED",
        "TLS with {address} failed: check grpcs://, tls= and the server's certificate",
    ),
    Cause(
        # "Endpoint closing": this client's time for the connection was up during the TLS handshake.
        r"handshake read failed \(endpoint closing|handshake timed out|timed out before receiving settings"
        "|connect(ion)? timed? ?out|tcp handshaker shutdown",
        "CONNECT_TIMEOUT",
        "{address} did not complete the connection in time: the next attempt takes longer",
    ),
    Cause("dns|resolv", "NO_SERVER", "{address} cannot be resolved: check the name"),
    Cause(
        rf"status:? (408|425|429|502|503|504)\b|{CALL_REFUSED}",
        "PROXY_BUSY",
        "the proxy at {address} reaches no server, or has no room for another call",
        passing=True,
    ),
    Cause(
        RAY_INGRESS,
        "PROXY_BUSY",
        "the ingress of Ray Serve at {address} knows no replica yet, or serves several applications",
        passing=True,
    ),
    Cause(
        r"status:? 413\b",
        "PROXY_LIMIT",
        "the proxy at {address} limits the bytes of a call: raise its limit (nginx: client_max_body_size 0)",
    ),
    Cause(
        "internal error from core",
        "STREAM_BROKEN",
        "the stream to {address} ended while it was written to: if this repeats, a proxy limits the bytes of a call "
        "(nginx: client_max_body_size 0)",
        passing=True,
    ),
    Cause("http proxy", "PROXY", "a proxy before {address} does not let the call through: set no_proxy"),
    Cause(
        "http2 header with status|parsing http/2",
        "PROXY",
        "{address} is not a gRPC server, or is a proxy that does not pass gRPC: check the port, set no_proxy",
    ),
    Cause(
        r"all (backends|addresses).*(socket closed|connection reset)",
        "CLOSED_AT_ONCE",
        "{address} closes every connection at once: it may want TLS (grpcs://), or a certificate of this client "
        "(tls=Tls(...)), or not be a gRPC server",
    ),
    Cause(
        "connect.*(refused|failed)",
        "NO_SERVER",
        "no server answers at {address}: start one with `midrib serve`, check the address, or use grpcs:// if the "
        "server has TLS",
    ),
)
# Reasons that seldom end by waiting: no server can be reached.
UNREACHABLE: Final = frozenset(cause.reason for cause in CAUSES if not cause.passing)


def broken(text: str, address: str) -> UnavailableError:
    """Return the error for a connection that gRPC lost, or could not make, with this text."""
    lower = text.lower()
    for cause in CAUSES:
        if re.search(cause.pattern, lower):
            message = f"{cause.message.format(address=address)} ({text}){_proxy_hint(cause.reason)}"
            return UnavailableError(message, reason=cause.reason)
    return UnavailableError(f"the connection to {address} broke: {text}", reason="CONNECTION_LOST")


def proxy_set() -> str | None:
    """Return the name of the variable that sends gRPC through a proxy, if one is set."""
    return next((name for name in _PROXIES if os.environ.get(name)), None)


def _proxy_hint(reason: str) -> str:
    name = proxy_set() if reason != "TLS_FAILED" else None
    return f"; {name} is set: set no_proxy as well if this address needs no proxy" if name else ""

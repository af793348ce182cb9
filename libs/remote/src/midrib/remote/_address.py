"""Where servers are: `grpc://a:50051,b:50051/namespace/name`, taken apart and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from midrib.wire import InvalidInputError

DEFAULT_PORT: Final = 50051
_SCHEMES = {"grpc": False, "grpcs": True}


@dataclass(frozen=True)
class Endpoint:
    """Servers that answer alike, and how to speak to them.

    addresses: host:port of each.  roots: PEM root certificates; empty bytes are the system's; None is no TLS.
    """

    addresses: tuple[str, ...]
    token: str | None = field(default=None, repr=False)
    roots: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        scheme = "grpc" if self.roots is None else "grpcs"
        return f"{scheme}://{','.join(self.addresses)}"


def endpoint_from(address: str, *, token: str | None = None, tls: bool | str | Path | None = None) -> Endpoint:
    """The endpoint of "host:port", "a:1,b:2", "grpc://..." or "grpcs://..." (TLS).

    token: sent as a bearer token; $MIDRIB_TOKEN where absent.  tls: True for the system's roots, or the path of a
    PEM file of root certificates; the scheme decides where it is None.
    Raises InvalidInputError where the address cannot be read.
    """
    scheme, _, hosts = address.rpartition("://")
    if scheme and scheme not in _SCHEMES:
        raise InvalidInputError(f"address {address!r} has scheme {scheme!r}: use grpc://host:port, or grpcs:// for TLS")
    if tls is False and scheme == "grpcs":
        raise InvalidInputError(f"address {address!r} asks for TLS and tls=False forbids it: use grpc://")
    addresses = tuple(_host_and_port(host, address) for host in hosts.rstrip("/").split(","))
    return Endpoint(addresses, token or os.environ.get("MIDRIB_TOKEN"), _roots(tls, _SCHEMES.get(scheme)))


def split_url(url: str) -> tuple[str, str]:
    """The address and the backbone's name of `grpc://host:port/namespace/name`.

    Raises InvalidInputError where one of them is missing.
    """
    scheme, separator, rest = url.partition("://")
    hosts, _, name = rest.partition("/")
    if not (separator and hosts and name.strip("/")):
        raise InvalidInputError(f"{url!r} names no backbone: write grpc://host:port/namespace/name")
    return f"{scheme}://{hosts}", name.strip("/")


def _host_and_port(text: str, address: str) -> str:
    host, colon, port = text.strip().rpartition(":")
    if text.strip().endswith("]") or not colon:  # an IPv6 address without a port, or a bare name
        host, port = text.strip(), str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
        raise InvalidInputError(f"address {address!r} is not host:port: write gpu-box:{DEFAULT_PORT}")
    return f"{host}:{port}"


def _roots(tls: bool | str | Path | None, secure: bool | None) -> bytes | None:
    if isinstance(tls, str | Path):
        return Path(tls).read_bytes()
    wanted = secure if tls is None else tls
    return b"" if wanted else None

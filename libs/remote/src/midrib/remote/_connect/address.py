"""The addresses of servers, `grpc://a:50051,b:50051/namespace/name?connections=2`: split and checked."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from midrib.remote._connect.arguments import checked_text, checked_token
from midrib.wire import InvalidInputError

DEFAULT_PORT: Final = 50051
_SCHEMES = {"grpc": False, "grpcs": True}
_MAX_CONNECTIONS: Final = 64


@dataclass(frozen=True)
class Tls:
    """The PEM files of a TLS connection, which are read again when they are renewed.

    roots: the authorities to trust; the system's by default.  certificate, key: this client's, for a server that asks
    for them (mutual TLS); the key may be in the certificate's file.
    Raises InvalidInputError for a key without a certificate.
    """

    roots: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise InvalidInputError(f"tls has key={str(self.key)!r} without its certificate: pass certificate= as well")


# True: TLS with the system's roots. A path: a file of roots. None: the address's scheme decides.
TlsLike: TypeAlias = bool | str | os.PathLike[str] | Tls | None


@dataclass(frozen=True)
class Endpoint:
    """Servers that answer alike, and how to connect to them.

    addresses: host:port of each.  token: sent as a bearer token.  tls: None for connections without TLS.
    connections: the number of connections to each address, each with a stream; a proxy may give each another server.
    """

    addresses: tuple[str, ...]
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    connections: int = 1

    def __str__(self) -> str:
        scheme = "grpc" if self.tls is None else "grpcs"
        return f"{scheme}://{','.join(self.addresses)}"


def endpoint_from(address: str, *, token: str | None = None, tls: TlsLike = None) -> Endpoint:
    """Return the endpoint of "host:port", "a:1,b:2", "grpc://..." or "grpcs://..." (TLS), perhaps "...?connections=4".

    token: sent as a bearer token; $MIDRIB_TOKEN by default.  tls: True for the system's roots, the path of a PEM file
    of root certificates, or a `Tls`; the scheme decides by default.
    Raises InvalidInputError if the address cannot be parsed or the token cannot be sent, FileNotFoundError for a
    missing file.
    """
    scheme, _, rest = checked_text("address", address).rpartition("://")
    hosts, _, query = rest.partition("?")
    if scheme and scheme not in _SCHEMES:
        raise InvalidInputError(f"address {address!r} has scheme {scheme!r}: use grpc://host:port, or grpcs:// for TLS")
    if tls is False and scheme == "grpcs":
        raise InvalidInputError(f"address {address!r} asks for TLS and tls=False forbids it: use grpc://")
    addresses = tuple(_host_and_port(host, address) for host in hosts.rstrip("/").split(","))
    token = token or os.environ.get("MIDRIB_TOKEN")
    token = checked_token(token) if token else None
    connections = _connections(query, address)
    tls = _SCHEMES.get(scheme, False) if tls is None else tls
    if not tls and tls != "":
        return Endpoint(addresses, token, connections=connections)
    files = _tls_files(tls)
    for path in (files.roots, files.certificate, files.key):
        if path is not None:
            Path(path).stat()
    return Endpoint(addresses, token, files, connections)


def _tls_files(tls: TlsLike) -> Tls:
    """Return the files of a TLS connection. Raises InvalidInputError for an empty path, or another type of argument."""
    if isinstance(tls, Tls):
        return tls
    if tls is True:
        return Tls()
    if not isinstance(tls, str | os.PathLike) or tls == "":
        raise InvalidInputError(f"tls is {tls!r:.40}, expected True, the path of a PEM file of roots, or a Tls")
    return Tls(Path(tls))


def split_url(url: str) -> tuple[str, str]:
    """Return the address and the backbone's name of `grpc://host:port/namespace/name?connections=4`.

    A query belongs to the address. Raises InvalidInputError if the address or the name is missing.
    """
    path, question_mark, query = checked_text("url", url).partition("?")
    scheme, separator, rest = path.partition("://")
    hosts, _, name = rest.partition("/")
    if not (separator and hosts and name.strip("/")):
        raise InvalidInputError(f"{url!r} does not name a backbone: write grpc://host:port/namespace/name")
    return f"{scheme}://{hosts}{question_mark}{query}", name.strip("/")


def is_ip(host: str) -> bool:
    """Return whether a host is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connections(query: str, address: str) -> int:
    """Return the number of connections that an address's query asks for; 1 without a query.

    Raises InvalidInputError for another query.
    """
    if not query:
        return 1
    match = re.fullmatch(r"connections=(\d{1,3})", query)
    if match is None or not 1 <= int(match[1]) <= _MAX_CONNECTIONS:
        raise InvalidInputError(
            f"address {address!r} ends with {query!r}, expected connections=1 to {_MAX_CONNECTIONS}: pass everything "
            "else as an argument of the client"
        )
    return int(match[1])


def _host_and_port(text: str, address: str) -> str:
    """Return host and port of an address. Raises InvalidInputError if it is not host:port."""
    host, colon, port = text.strip().rpartition(":")
    if text.strip().endswith("]") or not colon:  # an IPv6 address without a port, or a bare name
        host, port = text.strip(), str(DEFAULT_PORT)
    if "/" in text:
        raise InvalidInputError(
            f"address {address!r} also names a backbone: write {text.partition('/')[0]!r}, and pass the name to embed"
        )
    if ":" in host and not re.fullmatch(r"\[[^][]+\]", host):
        raise InvalidInputError(
            f"address {address!r} has several colons: write an IPv6 address as [::1]:{DEFAULT_PORT}"
        )
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    if not host or not is_port or not host.isprintable() or set("/ @") & set(host):
        raise InvalidInputError(f"address {address!r} is not host:port: write gpu-box:{DEFAULT_PORT}")
    return f"{host}:{port}"

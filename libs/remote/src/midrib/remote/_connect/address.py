"""Where servers are: `grpc://a:50051,b:50051/namespace/name`, taken apart and checked."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from midrib.wire import InvalidInputError

DEFAULT_PORT: Final = 50051
_SCHEMES = {"grpc": False, "grpcs": True}


@dataclass(frozen=True)
class Tls:
    """How to speak TLS: files in PEM.

    roots: the authorities to trust; the system's where absent.  certificate, key: this client's own, for a server that
    asks for them (mutual TLS); the key may stand in the certificate's file.
    """

    roots: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise InvalidInputError(f"tls has key={str(self.key)!r} without its certificate: pass certificate= as well")


# True is TLS by the system's roots, a path is a file of roots; None leaves it to the scheme.
TlsLike: TypeAlias = bool | str | Path | Tls | None


@dataclass(frozen=True)
class Endpoint:
    """Servers that answer alike, and how to speak to them.

    addresses: host:port of each.  roots: PEM root certificates; empty bytes are the system's; None is no TLS.
    client_certificate: this client's key and certificate, in PEM.
    """

    addresses: tuple[str, ...]
    token: str | None = field(default=None, repr=False)
    roots: bytes | None = field(default=None, repr=False)
    client_certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        scheme = "grpc" if self.roots is None else "grpcs"
        return f"{scheme}://{','.join(self.addresses)}"


def endpoint_from(address: str, *, token: str | None = None, tls: TlsLike = None) -> Endpoint:
    """The endpoint of "host:port", "a:1,b:2", "grpc://..." or "grpcs://..." (TLS).

    token: sent as a bearer token; $MIDRIB_TOKEN where absent.  tls: True for the system's roots, the path of a PEM
    file of root certificates, or a `Tls`; the scheme decides where it is None.
    Raises InvalidInputError where the address cannot be read, FileNotFoundError for a missing file.
    """
    scheme, _, hosts = address.rpartition("://")
    if scheme and scheme not in _SCHEMES:
        raise InvalidInputError(f"address {address!r} has scheme {scheme!r}: use grpc://host:port, or grpcs:// for TLS")
    if tls is False and scheme == "grpcs":
        raise InvalidInputError(f"address {address!r} asks for TLS and tls=False forbids it: use grpc://")
    addresses = tuple(_host_and_port(host, address) for host in hosts.rstrip("/").split(","))
    token = token or os.environ.get("MIDRIB_TOKEN")
    wanted = _SCHEMES.get(scheme, False) if tls is None else tls
    if not wanted:
        return Endpoint(addresses, token)
    files = wanted if isinstance(wanted, Tls) else Tls() if wanted is True else Tls(wanted)
    return Endpoint(addresses, token, _roots(files), _own(files))


def split_url(url: str) -> tuple[str, str]:
    """The address and the backbone's name of `grpc://host:port/namespace/name`.

    Raises InvalidInputError where one of them is missing.
    """
    scheme, separator, rest = url.partition("://")
    hosts, _, name = rest.partition("/")
    if not (separator and hosts and name.strip("/")):
        raise InvalidInputError(f"{url!r} names no backbone: write grpc://host:port/namespace/name")
    return f"{scheme}://{hosts}", name.strip("/")


def is_ip(host: str) -> bool:
    """Return whether a host is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host_and_port(text: str, address: str) -> str:
    host, colon, port = text.strip().rpartition(":")
    if text.strip().endswith("]") or not colon:  # an IPv6 address without a port, or a bare name
        host, port = text.strip(), str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
        raise InvalidInputError(f"address {address!r} is not host:port: write gpu-box:{DEFAULT_PORT}")
    return f"{host}:{port}"


def _roots(files: Tls) -> bytes:
    return b"" if files.roots is None else Path(files.roots).read_bytes()


def _own(files: Tls) -> tuple[bytes, bytes] | None:
    if files.certificate is None:
        return None
    return Path(files.key or files.certificate).read_bytes(), Path(files.certificate).read_bytes()

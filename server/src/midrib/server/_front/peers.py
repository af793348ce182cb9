"""The names of clients' addresses, as gRPC writes them. Without HTTP/2: grpcio's front uses them too."""

from __future__ import annotations

import ipaddress
from typing import Any


def peer_name(address: Any) -> str:
    """Return the name of a socket's address, "ipv4:127.0.0.1:50051" or "ipv6:[::1]:50051"; "unknown" if it is not IP.

    gRPC percent-encodes the brackets in the name that a service sees.
    """
    if not isinstance(address, tuple) or len(address) < 2:
        return "unknown"
    host, port = address[:2]
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return f"ipv6:[{host}]:{port}"
        ip = ip.ipv4_mapped
    return f"ipv4:{ip}:{port}"

"""The machines behind one name, where DNS has several records for it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from socket import getaddrinfo
from typing import Final

from midrib.remote._connect.diagnosis import proxy_set

# More streams than this from one process help no server.
_MOST: Final = 16


async def resolve_all(address: str) -> list[str]:
    """ip:port of each machine, in a fixed order; empty where there are not several to choose from.

    Looked up anew each time, because machines come and go behind a name. Of IPv4 where there is any: a name's other
    family is mostly the same machine. Behind a proxy the names are the proxy's to resolve.
    """
    host, _, port = address.rpartition(":")
    if _is_ip(host.strip("[]")) or proxy_set():
        return []
    try:
        found = await asyncio.to_thread(getaddrinfo, host, int(port), type=socket.SOCK_STREAM)
    except OSError:
        return []  # gRPC's own attempt says why
    four = sorted({str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET})
    six = sorted({f"[{entry[4][0]}]" for entry in found if entry[0] == socket.AF_INET6})
    several = four or six
    return [f"{ip}:{port}" for ip in several[:_MOST]] if len(several) > 1 else []


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

"""The machines behind a name that has several DNS records."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
from contextlib import suppress
from socket import getaddrinfo
from typing import Any, Final

from midrib.remote._connect.address import is_ip
from midrib.remote._connect.balance import choose_machines
from midrib.remote._connect.diagnosis import proxy_set

# The most machines that one process opens streams to.
MAX_MACHINES: Final = 16
_CLIENT: Final = secrets.token_hex(8)


async def resolve_all(address: str) -> list[str]:
    """Return the ip:port of each machine, in a fixed order; an empty list unless the name has several machines.

    Of more than MAX_MACHINES, each process has a different choice. The name is looked up each time, because machines
    come and go behind it. If it has IPv4 addresses, IPv6 ones are left out: they are mostly those of the same machines.
    With an HTTP proxy set, the proxy resolves names.
    """
    host, _, port = address.rpartition(":")
    if is_ip(host.strip("[]")) or proxy_set():
        return []
    entries = await _look_up(host, int(port))
    ipv4 = sorted({str(entry[4][0]) for entry in entries if entry[0] == socket.AF_INET})
    ipv6 = sorted({f"[{entry[4][0]}]" for entry in entries if entry[0] == socket.AF_INET6})
    machines = ipv4 or ipv6
    chosen = choose_machines(machines, MAX_MACHINES, f"{_CLIENT} {os.getpid()}")
    return [f"{ip}:{port}" for ip in chosen] if len(machines) > 1 else []


async def _look_up(host: str, port: int) -> list[Any]:
    """Return the records of a name; an empty list if it has none: gRPC's attempt to connect gives the reason.

    Each look-up has a thread: if DNS does not answer, it takes many seconds. It must not delay those of other names, as
    it would in the few threads of the loop's pool, or the exit of the process, which waits for a pool.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()

    def look_up() -> None:
        entries: list[Any] = []
        with suppress(OSError, UnicodeError):  # UnicodeError: a label is empty, or too long
            entries = getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(_deliver, found, entries)

    threading.Thread(target=look_up, name="midrib-dns", daemon=True).start()
    return await found


def _deliver(found: asyncio.Future[list[Any]], entries: list[Any]) -> None:
    if not found.done():  # else the call was cancelled
        found.set_result(entries)

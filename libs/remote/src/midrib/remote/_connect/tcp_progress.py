"""The bytes that this process has exchanged with a peer, as the kernel counts them.

gRPC does not say how much of a large message has been sent: on a slow line an upload looks like a silent server.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from midrib.remote._connect.address import is_ip

_T = TypeVar("_T")
# Bytes may be those of another call to the same peer: count them as a call's progress only for as long as its own
# bytes take on a line this slow.
SLOWEST_BYTES_PER_S: Final = 5e3
# Offsets in Linux's struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received, both unsigned 64-bit.
_BYTES_ACKED: Final = 120
_INFO_BYTES: Final = 136
_MAPPED_IPV4: Final = "::ffff:"


async def while_progressing(
    call: Coroutine[Any, Any, _T], address: str, silence_s: float, progressed: Callable[[float], object]
) -> _T:
    """Return the result of a call to "ip:port" or "host:port".

    progressed: called with the seconds in which bytes passed.
    Raises TimeoutError if for silence_s neither a result came nor bytes passed; and the errors of the call.
    """
    task = asyncio.ensure_future(call)
    exchanged, look_s, quiet_s = 0, silence_s / 2, 0.0
    try:
        while not (await asyncio.wait({task}, timeout=look_s))[0]:
            before, exchanged = exchanged, exchanged_bytes(address)
            if 0 < before != exchanged:
                quiet_s = 0.0
                progressed(look_s)
            else:
                quiet_s += look_s
            if quiet_s >= silence_s:
                raise TimeoutError(f"{address} was silent for {silence_s:g} s")
        return task.result()
    finally:
        task.cancel()


def exchanged_bytes(address: str) -> int:
    """Return the bytes acknowledged by and received from "ip:port" or "host:port", over all open connections.

    If the host is not an IP address, only the port is compared. Returns 0 if the system does not count (it is not
    Linux).
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not Path("/proc/self/fd").is_dir():
        return 0
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no descriptor is left
        return 0
    return sum(_exchanged(descriptor, address, option) for descriptor in descriptors)


def _exchanged(descriptor: int, address: str, option: int) -> int:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return 0
        copy = os.dup(descriptor)
    except OSError:  # closed meanwhile, or no descriptor is left
        return 0
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return 0
    with connection:
        return _acked_and_received(connection, address, option)


def _acked_and_received(connection: socket.socket, address: str, option: int) -> int:
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or not _is_peer(connection, address):
            return 0
        info = connection.getsockopt(socket.IPPROTO_TCP, option, _INFO_BYTES)
    except OSError:  # not connected
        return 0
    acked, received = struct.unpack_from("=QQ", info, _BYTES_ACKED) if len(info) == _INFO_BYTES else (0, 0)
    return int(acked) + int(received)


def _is_peer(connection: socket.socket, address: str) -> bool:
    host, _, port = address.rpartition(":")
    peer_host, peer_port = connection.getpeername()[:2]
    if peer_port != int(port):
        return False
    host = host.strip("[]")
    return not is_ip(host) or bool(peer_host.removeprefix(_MAPPED_IPV4) == host)

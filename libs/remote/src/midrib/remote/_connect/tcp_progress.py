"""The bytes that this process has exchanged with a peer, as the kernel counts them.

gRPC does not say how much of a large message has left: on a slow line an upload looks like a silent server.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

# Offsets in Linux's struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received, both unsigned 64-bit.
_BYTES_ACKED: Final = 120
_INFO_BYTES: Final = 136


def exchanged_bytes(address: str) -> int:
    """Return the bytes acknowledged by and received from "ip:port" or "host:port", over all open connections.

    Returns 0 if the system does not tell (it is not Linux, or a proxy stands between).
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not Path("/proc/self/fd").is_dir():
        return 0
    host, _, port = address.rpartition(":")
    peers = _addresses(host.strip("[]"), int(port))
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no descriptor is left
        return 0
    return sum(_exchanged(descriptor, peers, option) for descriptor in descriptors)


def _addresses(host: str, port: int) -> set[tuple[str, int]]:
    try:
        return {entry[4][:2] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}  # type: ignore[misc]
    except OSError:
        return set()


def _exchanged(descriptor: int, peers: set[tuple[str, int]], option: int) -> int:
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
        return _acked_and_received(connection, peers, option)


def _acked_and_received(connection: socket.socket, peers: set[tuple[str, int]], option: int) -> int:
    try:
        if connection.getpeername()[:2] not in peers:
            return 0
        info = connection.getsockopt(socket.IPPROTO_TCP, option, _INFO_BYTES)
    except OSError:  # not connected
        return 0
    acked, received = struct.unpack_from("=QQ", info, _BYTES_ACKED) if len(info) == _INFO_BYTES else (0, 0)
    return int(acked) + int(received)

"""The rules of shared memory that the client and the server follow. Standard library only."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Final

SHARED_ALIGNMENT: Final = 64
"""The offset of every tensor in shared memory is a multiple of this number of bytes."""

_CREDENTIALS: Final = struct.Struct("3i")


def can_share_memory() -> bool:
    """Return whether this system has anonymous memory that can be sealed, and sockets that name their peer."""
    return sys.platform == "linux" and sys.byteorder == "little" and hasattr(os, "memfd_create")


def aligned(size_bytes: int) -> int:
    """Return a size in bytes, rounded up to a multiple of the alignment."""
    return -(-size_bytes // SHARED_ALIGNMENT) * SHARED_ALIGNMENT


def peer_user(connection: socket.socket) -> int:
    """Return the id of the user whose process is at the other end of a Unix socket, by the kernel's record."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return int(user)

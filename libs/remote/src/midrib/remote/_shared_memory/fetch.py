"""Fetch the segment of a stream: its descriptor comes through a Unix socket of the server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
from typing import Final

from midrib.remote._shared_memory.segment import MappedSegment
from midrib.v1.embedding_pb2 import SharedMemory
from midrib.wire import peer_user

# A server on another machine may send any name: connect only to sockets that a Midrib server names.
_NAME: Final = re.compile("midrib-[0-9a-f]{32}")
_MAX_KEY_BYTES: Final = 64
_MAX_SEGMENT_BYTES: Final = 1 << 30
_ANSWER_S: Final = 2.0


async def fetch_segment(offer: SharedMemory) -> MappedSegment:
    """Return the segment that a server offers.

    Raises OSError, with the cause, if the server runs on another machine, in another container or as another user, if
    it has no memory left to share, if this process has no descriptor left, or if the offer is invalid.
    """
    size_ok = 0 < offer.size_bytes <= _MAX_SEGMENT_BYTES
    if not (_NAME.fullmatch(offer.socket) and size_ok and len(offer.key) <= _MAX_KEY_BYTES):
        raise OSError(f"the server's offer is invalid ({offer.size_bytes} bytes): is it a Midrib server?")
    try:
        descriptor = await _fetch(offer)
        try:
            return MappedSegment(descriptor, offer.size_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise OSError("this process has no file descriptor left: close files, or raise its limit") from error
        raise


async def _fetch(offer: SharedMemory) -> int:
    """Return the segment's descriptor. Raises OSError if the server's memory cannot be shared."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as connection:
        try:
            connection.connect(f"\0{offer.socket}")
        except BlockingIOError as error:
            raise OSError("too many other clients are connecting to the server's memory now") from error
        except OSError as error:
            raise OSError(f"the server runs on another machine, or in another container ({error.strerror})") from error
        if (user := peer_user(connection)) != os.geteuid():
            raise OSError(f"the server runs as another user, {user}")
        descriptors: list[int] = []
        with contextlib.suppress(ConnectionError):  # the server closed the connection
            connection.send(offer.key)
            await _readable(connection)
            _, descriptors, flags, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
            if flags & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not descriptors:
            raise OSError(f"the server has no memory left to share, {offer.size_bytes} bytes are needed")
        return descriptors[0]


async def _readable(connection: socket.socket) -> None:
    """Wait until a socket has something to read. Raises OSError if that takes too long."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        async with asyncio.timeout(_ANSWER_S):
            await ready.wait()
    except TimeoutError:
        raise OSError(f"the server did not hand over its memory within {_ANSWER_S:g} s") from None
    finally:
        loop.remove_reader(connection)

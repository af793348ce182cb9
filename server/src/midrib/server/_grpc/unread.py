"""Closes the connections of clients that leave the answers of ended calls unread.

gRPC keeps an answer in memory until HTTP/2's flow control lets it go, and has no function that drops it. Only the end
of its connection frees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable
from urllib.parse import unquote

from midrib.server._admission.quotas import Reservation
from midrib.server._front.peers import peer_name
from midrib.server._grpc.context import Context
from midrib.wire import Array

logger = logging.getLogger(__name__)

_OPEN_FILES = Path("/dev/fd")
# A stream gets its status after max_unread_s. A connection carries other calls too: it is closed only later, if
# its client does not read that status, or the answer of a unary call, either.
_CONNECTION_FACTOR = 4
# A smaller answer takes less memory than its call, whose number is limited: nothing waits until it is written.
SMALL_ANSWER_BYTES = 4096


def _is_actionable(record: logging.LogRecord) -> bool:
    """Return False for an answer that gRPC could not write, which is the end of its connection."""
    return not (record.exc_info and type(record.exc_info[1]).__name__ == "ExecuteBatchError")


logging.getLogger("grpc._cython.cygrpc").addFilter(_is_actionable)


class UnreadCalls:
    """Calls whose handlers have ended, and whose answer or status is not yet written.

    max_unread_s: how long a stream's client may leave an answer unread; its connection may for four times as long.
    """

    def __init__(self, max_unread_s: float) -> None:
        self._seconds = _CONNECTION_FACTOR * max_unread_s
        self._watched: dict[Context, _Unread] = {}
        self._check: asyncio.TimerHandle | None = None

    def watch(self, context: Context) -> None:
        """Close the connection of a call unless its answer is written in time. Call it as the handler ends."""
        self._watched[context] = _Unread(time.monotonic(), context.peer())
        context.add_done_callback(self._written)
        if self._check is None:
            self._schedule()

    def _written(self, context: Context) -> None:
        self._watched.pop(context, None)

    def _schedule(self) -> None:
        self._check = asyncio.get_running_loop().call_later(self._seconds / 16, self._close_late)

    def _close_late(self) -> None:
        """Close the connections of calls that are late; look again later while calls are watched."""
        self._check = None
        latest = time.monotonic() - self._seconds
        late = {context: unread.peer for context, unread in self._watched.items() if unread.since <= latest}
        if late:
            logger.warning(
                "close %d connections: their clients read no answer for %g s",
                _close_connections_of(late),
                self._seconds,
            )
        if self._watched:
            self._schedule()


class _Unread(NamedTuple):
    """A call that has ended: the time.monotonic() of its end, and gRPC's name of the client's address."""

    since: float
    peer: str


@runtime_checkable
class _ClosesConnection(Protocol):
    """The context of a front that can close connections, also those of other processes."""

    def close_connection(self) -> None:
        """Close the client's connection, and with it all its calls."""


def _close_connections_of(peers: Mapping[Context, str]) -> int:
    """Close the connections of calls, each with its peer; return their number."""
    closed: set[str] = set()
    others: set[str] = set()
    for context, peer in peers.items():
        if isinstance(context, _ClosesConnection):
            context.close_connection()
            closed.add(peer)
        else:
            others.add(peer)
    return len(closed) + (close_connections(others) if others else 0)


def release_once_written(context: Context, reservation: Reservation, answer: Array) -> None:
    """Release the bytes of a unary call's item once its answer is written, or its connection has ended.

    answer: [rows, ...]; it is released at once if this is small.
    """
    if answer.nbytes <= SMALL_ANSWER_BYTES:
        reservation.release()
    else:
        context.add_done_callback(lambda _context: reservation.release())


def close_connections(peers: set[str]) -> int:
    """Shut down the connections of this process from these peers, named as gRPC names them; return their number."""
    closed = 0
    for name in os.listdir(_OPEN_FILES):
        with contextlib.suppress(OSError), _duplicate(int(name)) as connection:
            if _peer(connection) in {unquote(peer) for peer in peers}:
                connection.shutdown(socket.SHUT_RDWR)
                closed += 1
    return closed


def _duplicate(file: int) -> socket.socket:
    """Return the socket of a file descriptor, as one that can be closed apart. Raises OSError for any other file."""
    copy = os.dup(file)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _peer(connection: socket.socket) -> str | None:
    """Return gRPC's name of the peer; None for a socket that is not TCP. Raises OSError if it is not connected."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return peer_name(connection.getpeername())

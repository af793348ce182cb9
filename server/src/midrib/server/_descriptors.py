"""What a server does while its process has no file descriptor left for another connection: wait, and say so once.

uvloop waits without a log line. asyncio logs an error for each connection that it tries to accept.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket

logger = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 1
"""The backlog for `create_server`: asyncio tries to accept as many connections at once."""

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""The errors of a process, or of a machine, without a free file descriptor."""

_LOOK_S = 2.0


class DescriptorWatch:
    """Looks regularly whether a file descriptor is left, and logs once when none is, and again after it has passed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_exhausted = False
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    def close(self) -> None:
        """Stop looking."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        is_exhausted = not _is_left()
        if is_exhausted and not self._is_exhausted:
            logger.warning(
                "no file descriptor is left (limit %d): new connections wait until others close. Raise the limit "
                "(ulimit -n, LimitNOFILE= of systemd), or lower max_connection_idle_s",
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )
        self._is_exhausted = is_exhausted


def _is_left() -> bool:
    """Return whether this process can open another file descriptor."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in NO_DESCRIPTOR
    return True


def let_wait(server: asyncio.Server, connections: int) -> None:
    """Let this many connections wait until they are accepted. The kernel's net.core.somaxconn limits the number too."""
    for each in server.sockets:
        with socket.socket(fileno=os.dup(each.fileno())) as listening:
            listening.listen(connections)

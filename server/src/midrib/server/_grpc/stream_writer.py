"""Where a stream's answers leave, and whether anybody takes them."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NoReturn

from midrib.server._grpc.errors import Context
from midrib.wire import UnavailableError


class StreamWriter:
    """Writes the answers of one stream.

    max_unread_s: how long one may wait to be read.
    """

    def __init__(self, context: Context, max_unread_s: float) -> None:
        self._context = context
        self._max_unread_s = max_unread_s
        self._writing_since: float | None = None

    async def write(self, message: Any) -> None:
        """Send one message, once HTTP/2's flow control lets it go."""
        self._writing_since = time.monotonic()
        await self._context.write(message)
        self._writing_since = None

    async def fail_if_unread(self) -> NoReturn:
        """Raise UnavailableError once one message has waited for too long."""
        seconds = self._max_unread_s
        while self._writing_since is None or time.monotonic() - self._writing_since < seconds:
            await asyncio.sleep(seconds / 4)
        raise UnavailableError(
            f"no result of this stream was read for {seconds:g} s: read while you send, or open another stream",
            reason="NOT_READ",
        )

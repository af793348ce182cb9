"""A budget of bytes that requests in flight may hold."""

from __future__ import annotations

import asyncio
from collections import deque

from midrib.wire import OverloadedError


class ByteBudget:
    """Bytes held by what is in flight: a caller that cannot wait is refused, one that can waits its turn.

    A request larger than the whole limit is let in alone, so that nothing waits forever.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, size: int) -> None:
        """Hold so many bytes now; raises OverloadedError where there is no room."""
        if self._waiting or not self._has_room(size):
            raise OverloadedError(
                f"{self.held} bytes are in flight and {size} more were asked for, limit {self.limit}: "
                "try again shortly, or use a stream",
                retry_after=0.1,
            )
        self.held += size

    async def wait(self, size: int) -> None:
        """Hold so many bytes, first come first served, once there is room."""
        if not self._waiting and self._has_room(size):
            self.held += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(size)
            raise

    def release(self, size: int) -> None:
        """Give bytes back, and let in whoever they were waited for."""
        self.held -= size
        while self._waiting and (self._waiting[0][1].done() or self._has_room(self._waiting[0][0])):
            waiting, turn = self._waiting.popleft()
            if not turn.done():
                self.held += waiting
                turn.set_result(None)

    def _has_room(self, size: int) -> bool:
        return self.held + size <= self.limit or not self.held

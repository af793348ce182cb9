"""How much of the server requests in flight may hold."""

from __future__ import annotations

import asyncio
from collections import deque

from midrib.wire import OverloadedError


class Quota:
    """What may be held at once: a caller that cannot wait is refused, one that can waits its turn.

    A request larger than the whole limit is let in alone, so that nothing waits forever.
    what: is counted, for the error: "bytes", "items".
    """

    def __init__(self, limit: int, *, what: str = "bytes") -> None:
        self.limit = limit
        self.held = 0
        self._what = what
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, amount: int) -> None:
        """Hold so much now; raises OverloadedError where there is no room."""
        if not self.free(amount):
            raise OverloadedError(
                f"{self.held} {self._what} are in flight and {amount} more were asked for, limit {self.limit}: "
                "try again shortly, or use a stream",
                retry_after=0.1,
            )
        self.held += amount

    async def wait(self, amount: int) -> None:
        """Hold so much, first come first served, once there is room."""
        if self.free(amount):
            self.held += amount
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(amount)
            raise

    def release(self, amount: int) -> None:
        """Give some back, and let in whoever waited for it."""
        self.held -= amount
        while self._waiting and (self._waiting[0][1].done() or self._has_room(self._waiting[0][0])):
            waiting, turn = self._waiting.popleft()
            if not turn.done():
                self.held += waiting
                turn.set_result(None)

    def free(self, amount: int) -> bool:
        """Whether so much may be held now, with nobody waiting for it."""
        return not self._waiting and self._has_room(amount)

    def _has_room(self, amount: int) -> bool:
        return self.held + amount <= self.limit or not self.held


class Reservation:
    """What one request holds of several quotas: its part of each, or nothing.

    wanted: a quota and how much of it, each.
    """

    def __init__(self, *wanted: tuple[Quota, int]) -> None:
        self._wanted = wanted
        self._reserved: list[tuple[Quota, int]] = []

    def take(self) -> None:
        """Hold all of it now; raises OverloadedError, and holds nothing, where a quota has no room."""
        try:
            for quota, amount in self._wanted:
                quota.take(amount)
                self._reserved.append((quota, amount))
        except OverloadedError:
            self.release()
            raise

    async def wait(self) -> None:
        """Hold all of it once there is room; holds nothing if the waiting is cancelled."""
        try:
            for quota, amount in self._wanted:
                await quota.wait(amount)
                self._reserved.append((quota, amount))
        except asyncio.CancelledError:
            self.release()
            raise

    def release(self) -> None:
        """Give back whatever is held."""
        while self._reserved:
            quota, amount = self._reserved.pop()
            quota.release(amount)

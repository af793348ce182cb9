"""Quotas: the amount that requests in flight may hold."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from midrib.wire import OverloadedError


class Quota:
    """An amount that may be held at the same time. Callers either wait for room, in order, or are refused.

    A request larger than the limit is admitted when nothing else is held, so that nothing waits forever.
    what: the unit, for the error: "bytes" or "items".
    """

    def __init__(self, limit: int, *, what: str = "bytes") -> None:
        self.limit = limit
        self.held = 0
        self._what = what
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def acquire_nowait(self, amount: int) -> None:
        """Hold the amount now. Raises OverloadedError if the limit is reached."""
        if not self.hold(amount):
            raise OverloadedError(
                f"{self.held} {self._what} are in flight and {amount} more were asked for, limit {self.limit}: "
                "try again shortly, or use a stream",
                retry_after=0.1,
            )

    async def acquire(self, amount: int) -> None:
        """Hold the amount once there is room; callers are served in the order in which they came."""
        if self.hold(amount):
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.release(amount)
            raise

    def release(self, amount: int) -> None:
        """Release the amount, and admit the callers that wait for it."""
        self.held -= amount
        while self._waiting and (self._waiting[0][1].done() or self._has_room(self._waiting[0][0])):
            waiting, admitted = self._waiting.popleft()
            if not admitted.done():
                self.held += waiting
                admitted.set_result(None)

    def undo(self, amount: int) -> None:
        """Release an amount of a request that was refused."""
        self.release(amount)

    def hold(self, amount: int) -> bool:
        """Hold the amount if there is room and no other caller waits; return whether it is held."""
        if self._waiting or not self._has_room(amount):
            return False
        self.held += amount
        return True

    def _has_room(self, amount: int) -> bool:
        return self.held + amount <= self.limit or not self.held


class Limit(Protocol):
    """A quota or a rate, as a reservation uses it."""

    def hold(self, amount: int) -> bool:
        """Hold the amount if there is room now; return whether there was."""
        ...

    def acquire_nowait(self, amount: int) -> None:
        """Hold the amount now. Raises OverloadedError if there is no room."""

    async def acquire(self, amount: int) -> None:
        """Hold the amount once there is room."""

    def release(self, amount: int) -> None:
        """Release the amount once the request is answered."""

    def undo(self, amount: int) -> None:
        """Return the amount of a request that was refused."""


class Reservation:
    """The amounts that one request holds of several quotas: all of them, or none.

    amounts: pairs of a quota and an amount.
    """

    def __init__(self, *amounts: tuple[Limit, int]) -> None:
        self._amounts = amounts
        self._reserved: list[tuple[Limit, int]] = []

    def acquire_nowait(self) -> None:
        """Hold all amounts now. Raises OverloadedError, and holds nothing, if a quota has no room."""
        try:
            for quota, amount in self._amounts:
                quota.acquire_nowait(amount)
                self._reserved.append((quota, amount))
        except OverloadedError:
            self.undo()
            raise

    def hold(self) -> bool:
        """Hold all amounts if there is room for all; return whether they are held."""
        for quota, amount in self._amounts:
            if not quota.hold(amount):
                self.undo()
                return False
            self._reserved.append((quota, amount))
        return True

    async def acquire(self) -> None:
        """Hold all amounts once there is room. Holds nothing if it is cancelled."""
        try:
            for quota, amount in self._amounts:
                if not quota.hold(amount):
                    await quota.acquire(amount)
                self._reserved.append((quota, amount))
        except asyncio.CancelledError:
            self.undo()
            raise

    def release(self) -> None:
        """Release all amounts that are held."""
        while self._reserved:
            quota, amount = self._reserved.pop()
            quota.release(amount)

    def undo(self) -> None:
        """Return all amounts that are held, because the request is refused; a rate has then not been used."""
        while self._reserved:
            quota, amount = self._reserved.pop()
            quota.undo(amount)

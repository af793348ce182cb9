"""Quotas: the amount that requests in flight may hold."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Protocol

from midrib.wire import OverloadedError


class Room(ABC):
    """An amount that requests hold at the same time. They either wait for room, in order, or are refused.

    held: the amount that requests hold now.
    """

    __slots__ = ("_waiting", "held")

    def __init__(self) -> None:
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @abstractmethod
    def has_room(self, amount: int) -> bool:
        """Return whether this much more may be held, if no request waits."""

    @abstractmethod
    def admit(self) -> None:
        """Admit the requests that wait and have room now."""

    @abstractmethod
    def refusal(self, amount: int) -> str:
        """Return the reason why there is too little room, with the amounts."""

    def take(self, amount: int) -> None:
        """Count an amount as held; a negative one as released."""
        self.held += amount

    def hold(self, amount: int) -> bool:
        """Hold the amount if there is room and no other request waits; return whether it is held."""
        if self._waiting or not self.has_room(amount):
            return False
        self.take(amount)
        return True

    def acquire_nowait(self, amount: int) -> None:
        """Hold the amount now. Raises OverloadedError if there is no room."""
        if not self.hold(amount):
            raise OverloadedError(f"{self.refusal(amount)}: try again shortly, or use a stream", retry_after=0.1)

    async def acquire(self, amount: int) -> None:
        """Hold the amount once there is room; requests are served in the order in which they came."""
        if self.hold(amount):
            return
        admitted = self.wait(amount)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.release(amount)
            else:
                self.admit()
            raise

    def wait(self, amount: int) -> asyncio.Future[None]:
        """Return a future that is done once the amount is held."""
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, admitted))
        return admitted

    def release(self, amount: int) -> None:
        """Release the amount, and admit the requests that wait for it."""
        self.take(-amount)
        self.admit()

    def undo(self, amount: int) -> None:
        """Release an amount of a request that was refused."""
        self.release(amount)

    def waits(self) -> bool:
        """Return whether a request waits."""
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        return bool(self._waiting)

    def admit_first(self) -> bool:
        """Admit the first request that waits, if there is room for it; return whether there was."""
        amount, admitted = self._waiting[0]
        if not self.has_room(amount):
            return False
        self._waiting.popleft()
        self.take(amount)
        admitted.set_result(None)
        return True


class Quota(Room):
    """An amount that one client may hold.

    A request larger than the limit is admitted when nothing else is held, so that nothing waits forever.
    what: the unit, for the error: "bytes" or "items".
    """

    def __init__(self, limit: int, *, what: str = "bytes") -> None:
        super().__init__()
        self.limit = limit
        self._what = what

    def has_room(self, amount: int) -> bool:
        """Return whether this much more is within the limit."""
        return self.held + amount <= self.limit or not self.held

    def admit(self) -> None:
        """Admit the requests that wait and have room now."""
        while self.waits() and self.admit_first():
            pass

    def refusal(self, amount: int) -> str:
        """Return the reason why there is too little room, with the amounts."""
        return f"{self.held} {self._what} are in flight and {amount} more were asked for, limit {self.limit}"


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

"""A quota that several clients share, so that one that fills it does not keep the others out.

Share: dynamic thresholds, as in the queue (`_engine.flows`). A flow may hold up to 16 times the room that is still
free. There is room for 17/16 of the limit: one flow alone reaches the limit, and the next flow still finds room.
Source: Choudhury & Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998, section III.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Final
from weakref import WeakValueDictionary

from midrib.wire import OverloadedError

# The multiple of the free room that one flow may hold.
_SHARE: Final = 16


class FairQuota:
    """An amount that all flows may hold at the same time.

    A request larger than the limit is admitted when nothing else is held, so that nothing waits forever.
    what: the unit, for the error.  held: by all flows.
    """

    def __init__(self, limit: int, *, what: str = "bytes") -> None:
        self.limit = limit
        self.what = what
        self.held = 0
        self._shares: WeakValueDictionary[Hashable, Share] = WeakValueDictionary()
        self._waiting: dict[Share, None] = {}
        self._next: Share | None = None  # of the flows that wait, the one that holds least

    @property
    def room(self) -> int:
        """The amount that all flows together may hold."""
        return self.limit + self.limit // _SHARE

    def share(self, flow: Hashable) -> Share:
        """Return what a flow holds of this quota; the same object as long as anybody refers to it."""
        share = self._shares.get(flow)
        if share is None:
            share = self._shares[flow] = Share(self)
        return share

    def may_hold(self, share: Share, amount: int) -> bool:
        """Return whether a flow may hold this much more now.

        A flow that waits and holds less goes first: however large its request, it is admitted in the end. The first
        request of a flow needs free room only.
        """
        if not self.held:
            return True
        free = self.room - self.held - amount
        if free < 0 or not share.held:
            return free >= 0
        if self._next is not None and self._next.held < share.held:
            return False
        return share.held + amount <= _SHARE * free

    def wait(self, share: Share) -> None:
        """Note that a flow waits for room."""
        self._waiting[share] = None
        if self._next is None or share.held < self._next.held:
            self._next = share

    def admit(self) -> None:
        """Admit the requests that wait and have room now: those of the flow that holds least are first."""
        self._next = None
        while self._waiting:
            share = min(self._waiting, key=_held)
            if not share.waits():
                del self._waiting[share]
            elif not share.admit_first():
                self._next = share
                return


class Share:
    """What one flow holds of a quota. Its requests either wait for room, in order, or are refused.

    Implements `Limit`.
    """

    __slots__ = ("__weakref__", "_quota", "_waiting", "held")

    def __init__(self, quota: FairQuota) -> None:
        self.held = 0
        self._quota = quota
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def hold(self, amount: int) -> bool:
        """Hold the amount if there is room and no other request of the flow waits; return whether it is held."""
        if self._waiting or not self._quota.may_hold(self, amount):
            return False
        self._take(amount)
        return True

    def acquire_nowait(self, amount: int) -> None:
        """Hold the amount now. Raises OverloadedError if there is no room."""
        if not self.hold(amount):
            quota = self._quota
            raise OverloadedError(
                f"{quota.held} {quota.what} are in flight and {amount} more were asked for, limit {quota.limit}, "
                f"of which this client has {self.held}: try again shortly, or use a stream",
                retry_after=0.1,
            )

    async def acquire(self, amount: int) -> None:
        """Hold the amount once there is room; the requests of a flow are served in the order in which they came."""
        if self.hold(amount):
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, admitted))
        self._quota.wait(self)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self.release(amount)
            else:
                self._quota.admit()
            raise

    def release(self, amount: int) -> None:
        """Release the amount, and admit the requests that wait for it."""
        self.held -= amount
        self._quota.held -= amount
        self._quota.admit()

    def undo(self, amount: int) -> None:
        """Release an amount of a request that was refused."""
        self.release(amount)

    def waits(self) -> bool:
        """Return whether a request of the flow waits."""
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        return bool(self._waiting)

    def admit_first(self) -> bool:
        """Admit the first request that waits, if there is room for it; return whether there was."""
        amount, admitted = self._waiting[0]
        if not self._quota.may_hold(self, amount):
            return False
        self._waiting.popleft()
        self._take(amount)
        admitted.set_result(None)
        return True

    def _take(self, amount: int) -> None:
        self.held += amount
        self._quota.held += amount


def _held(share: Share) -> int:
    return share.held

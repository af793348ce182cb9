"""A quota that several clients share, so that one that fills it does not keep the others out.

Share: dynamic thresholds, as in the queue (`_engine.flows`). A flow may hold up to 16 times the room that is still
free. There is room for 17/16 of the limit: one flow alone reaches the limit, and the next flow still finds room.
Source: Choudhury & Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998, section III.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Final
from weakref import WeakValueDictionary

from midrib.server._admission.quotas import Room

# The multiple of the free room that one flow may hold.
_SHARE: Final = 16


class FairQuota:
    """An amount that all flows may hold at the same time.

    A request larger than the limit is admitted when nothing else is held, so that nothing waits forever.
    what: the unit, for the error.  held: the amount that all flows hold now.
    """

    def __init__(self, limit: int, *, what: str = "bytes") -> None:
        self.limit = limit
        self.what = what
        self.held = 0
        self._shares: WeakValueDictionary[Hashable, Share] = WeakValueDictionary()
        self._waiting: dict[Share, None] = {}
        self._next: Share | None = None  # the waiting flow that holds least

    @property
    def room(self) -> int:
        """The amount that all flows together may hold."""
        return self.limit + self.limit // _SHARE

    def share(self, flow: Hashable) -> Share:
        """Return the share of a flow in this quota; the same object as long as anything refers to it."""
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


class Share(Room):
    """The share of one flow in a quota."""

    __slots__ = ("__weakref__", "_quota")

    def __init__(self, quota: FairQuota) -> None:
        super().__init__()
        self._quota = quota

    def has_room(self, amount: int) -> bool:
        """Return whether the flow may hold this much more."""
        return self._quota.may_hold(self, amount)

    def admit(self) -> None:
        """Admit the requests of all flows that wait and have room now."""
        self._quota.admit()

    def refusal(self, amount: int) -> str:
        """Return the reason why there is too little room, with the amounts."""
        quota = self._quota
        return (
            f"{quota.held} {quota.what} are in flight and {amount} more were asked for, limit {quota.limit}, "
            f"of which this client has {self.held}"
        )

    def take(self, amount: int) -> None:
        """Count an amount as held, by this flow and by all."""
        self.held += amount
        self._quota.held += amount

    def wait(self, amount: int) -> asyncio.Future[None]:
        """Return a future that is done once the amount is held."""
        admitted = super().wait(amount)
        self._quota.wait(self)
        return admitted


def _held(share: Share) -> int:
    return share.held

"""How many requests of unknown size may be received at the same time.

gRPC reports the size of a request only when the whole request is in memory. The memory that requests take before their
admission is therefore bounded by their number: at most `max_message_bytes` for each.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from midrib.server._admission.quotas import Quota
from midrib.server._admission.tokens import CURRENT_TENANT, Tenant
from midrib.wire import OverloadedError

# The limits of a tenant, of all peers without a token together, and of the server: for requests that cannot be given up
# while they are received (those of unary methods), and for the others, which include streams that are still idle.
_TENANT_LIMITS = (6, 8)
_UNKNOWN_PEERS_LIMITS = (2, 2)
_SERVER_LIMITS = (12, 8)
# Under pressure, a request that has not arrived after this time is given up, so that others are received.
_LATE_S = 10.0
_LONGEST_WAIT_S = 30.0
# The shortest wait, as a share of the longest: requests that began to wait together are refused at different times.
_SHORTEST_WAIT = 0.7
# Further requests of a pool are refused at once: each that waits keeps the first bytes of its message.
_MAX_WAITING = 4096
_STEP_S = 0.25


class ReceivePool:
    """The requests that are being received for one tenant, for all unknown peers, or for the whole server.

    limits: the number of requests that cannot be given up, and of those that can.
    """

    def __init__(self, limits: tuple[int, int]) -> None:
        self.fixed, self._quota = (Quota(limit, what="requests") for limit in limits)
        self._receipts: dict[Receipt, None] = {}
        self._waiting = 0
        self._check: asyncio.TimerHandle | None = None

    async def enter(self, receipt: Receipt) -> None:
        """Receive a request once there is room. Raises OverloadedError if many wait, or after a long time."""
        if not self._quota.hold(1):
            await self._wait()
        self._receipts[receipt] = None

    def leave(self, receipt: Receipt) -> None:
        """Make room: the request is received, or given up."""
        del self._receipts[receipt]
        self._quota.release(1)

    async def _wait(self) -> None:
        """Wait for room. Raises OverloadedError if there is none in time."""
        if self._waiting >= _MAX_WAITING:
            raise self._overloaded()
        self._waiting += 1
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(_STEP_S, self._give_up_late)
        try:
            async with asyncio.timeout(_LONGEST_WAIT_S * random.SystemRandom().uniform(_SHORTEST_WAIT, 1.0)):
                await self._quota.acquire(1)
        except TimeoutError as error:
            raise self._overloaded() from error
        finally:
            self._waiting -= 1

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(
            f"{self._quota.held} requests of this client are being received, limit {self._quota.limit}: send the rest "
            "of them, then try again",
            retry_after=1.0,
        )

    def _give_up_late(self) -> None:
        """Give up the oldest request if it is late, and look again while others wait."""
        oldest = next(iter(self._receipts), None)
        if oldest is not None and oldest.since and time.monotonic() - oldest.since > _LATE_S:
            oldest.given_up.set()
        loop = asyncio.get_running_loop()
        self._check = loop.call_later(_STEP_S, self._give_up_late) if self._waiting else None


class Receipt:
    """One request, or the next message of a stream, from when it may be received until it is admitted.

    since: when it was first allowed to be received, of time.monotonic.
    given_up: set when others need its place; its call should end. It exists once `enter` has returned.
    """

    __slots__ = ("_entered", "_pools", "given_up", "since")

    def __init__(self, pools: tuple[ReceivePool, ...]) -> None:
        self.since = 0.0
        self.given_up: asyncio.Event
        self._pools = pools
        self._entered: list[ReceivePool] = []

    async def enter(self) -> None:
        """Enter all pools once there is room. Raises OverloadedError if there is none for a long time."""
        self.given_up = asyncio.Event()
        try:
            for pool in self._pools:
                await pool.enter(self)
                self._entered.append(pool)
        except BaseException:
            self.leave()
            raise
        self.since = time.monotonic()

    def leave(self) -> None:
        """Leave the pools. Does nothing the second time."""
        while self._entered:
            self._entered.pop().leave(self)


class Receiver:
    """Receives the messages of one call.

    pools: the tenant's and the server's.  receipt: that of a unary call's request while it waits for room.
    """

    __slots__ = ("_in_fixed", "pools", "receipt")

    def __init__(self, pools: tuple[ReceivePool, ...]) -> None:
        self.pools = pools
        self.receipt: Receipt | None = None
        self._in_fixed = False

    def enter_fixed(self) -> bool:
        """Enter all pools, or none, with a request that cannot be given up; return whether there was room."""
        for number, pool in enumerate(self.pools):
            if not pool.fixed.hold(1):
                for entered in self.pools[:number]:
                    entered.fixed.release(1)
                return False
        self._in_fixed = True
        return True

    def received(self, _call: object = None) -> None:
        """Leave the pools: the request of a unary call is complete, or its call has ended."""
        if self._in_fixed:
            self._in_fixed = False
            for pool in self.pools:
                pool.fixed.release(1)
        if self.receipt is not None:
            self.receipt.leave()


class ReceiveLimits:
    """The pools of a server: of each tenant, of all peers without a token together, and of everybody."""

    def __init__(self, *, has_tokens: bool) -> None:
        self._has_tokens = has_tokens
        self._server = ReceivePool(_SERVER_LIMITS)
        self._everybody = (self._server,)
        self._unknown_peers = ReceivePool(_UNKNOWN_PEERS_LIMITS)
        self._tenants: WeakKeyDictionary[Tenant, ReceivePool] = WeakKeyDictionary()

    def receiver(self) -> Receiver:
        """Return the receiver of a call of the current tenant."""
        if not self._has_tokens:
            return Receiver(self._everybody)
        tenant = CURRENT_TENANT.get()
        if tenant is None:
            return Receiver((self._unknown_peers, self._server))
        if tenant not in self._tenants:
            self._tenants[tenant] = ReceivePool(_TENANT_LIMITS)
        return Receiver((self._tenants[tenant], self._server))


CURRENT_RECEIVER: ContextVar[Receiver | None] = ContextVar("midrib_receiver", default=None)
"""The receiver of the call that the current task serves; None if requests are not limited."""

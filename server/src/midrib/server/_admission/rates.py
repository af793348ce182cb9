"""Rates: the amount that a caller may use per second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from midrib.wire import OverloadedError

_ROUNDING_S = 1e-6


class Rate:
    """An amount per second, of which up to one second's worth can be saved up (a token bucket).

    An amount larger than that is admitted once a full second's worth is saved; later amounts wait for longer.
    what: the unit, for the error: "bytes" or "requests".
    """

    def __init__(self, limit: float, *, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._what = what
        self._clock = clock
        self._saved = limit
        self._since = clock()

    def acquire_nowait(self, amount: int) -> None:
        """Use the amount now. Raises OverloadedError, with the seconds to wait, if the rate is exceeded."""
        if not self.hold(amount):
            wait_s = self._wait_s(amount)
            raise OverloadedError(
                f"more than {self.limit:g} {self._what} per second: try again in {wait_s:.2g} s, or use a stream",
                retry_after=wait_s,
            )

    async def acquire(self, amount: int) -> None:
        """Use the amount as soon as the rate allows it."""
        while not self.hold(amount):
            await asyncio.sleep(self._wait_s(amount))

    def hold(self, amount: int) -> bool:
        """Use the amount if the rate allows it now; return whether it does."""
        if self._wait_s(amount) > _ROUNDING_S:
            return False
        self._saved -= amount
        return True

    def release(self, amount: int) -> None:
        """Do nothing: an amount that was used is not returned."""

    def undo(self, amount: int) -> None:
        """Return an amount that was not used, because the request was refused."""
        self._saved = min(self.limit, self._saved + amount)

    def _wait_s(self, amount: int) -> float:
        now = self._clock()
        self._saved = min(self.limit, self._saved + (now - self._since) * self.limit)
        self._since = now
        return (min(amount, self.limit) - self._saved) / self.limit

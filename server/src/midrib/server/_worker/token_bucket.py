"""A limit on how often something happens: a number of times at once, then at a fixed rate."""

from __future__ import annotations


class TokenBucket:
    """A bucket of tokens, full at first. Each event takes one; an empty bucket makes the event wait for the next one.

    size: the number of tokens.  refill_s: the seconds in which one token is added.
    """

    def __init__(self, size: int, refill_s: float) -> None:
        self._empty_for_s = size * refill_s
        self._refill_s = refill_s
        self._full_at = float("-inf")

    def take(self, now: float) -> float:
        """Take a token at the time `now`, in seconds; return the seconds until the bucket has it, 0 if it has it now.

        Events are expected in the order of their times.
        """
        self._full_at = max(self._full_at, now) + self._refill_s
        return max(0.0, self._full_at - now - self._empty_for_s)

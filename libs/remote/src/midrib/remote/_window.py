"""How many items a stream keeps in flight."""

from __future__ import annotations

from typing import Final

from midrib.remote._codec import Timing

# Small calls wait for each other while so many items are in flight, and travel joined: messages cost more than bytes.
SMALL: Final = 2
_START = 4
_DEEP = 4.0


class Window:
    """Grows while the server runs dry of this client's items, shrinks while they pile up there.

    The server's own clock tells: an item that waited less than one computation found the device nearly idle, one that
    waited over four stood in a queue that hides no more latency.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self.size = _START if limit is None else limit
        self.most = self.size

    def allow(self, most: int) -> None:
        """Hold the window under what the server allows a stream."""
        self.most = most if self._limit is None else min(most, self._limit)
        self.size = max(1, min(self.size, self.most))

    def observe(self, timing: Timing, *, limited: bool) -> None:
        """Learn from one result; limited: whether items waited here for room."""
        if self._limit is not None or not timing.total_s:
            return
        if timing.queue_s > _DEEP * timing.compute_s:
            self.size = max(SMALL, self.size - 1)
        elif limited and timing.queue_s < timing.compute_s:
            self.size = min(self.most, self.size + 1)

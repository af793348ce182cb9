"""How many items a stream keeps in flight."""

from __future__ import annotations

from typing import Final

from midrib.remote._items.codec import Timing

_START: Final = 4
_FEW: Final = 2
_DEEP: Final = 4.0
_SMOOTH: Final = 1 / 8


class Window:
    """Grows while the server runs dry of this client's items, shrinks while they pile up there.

    The server's own clock tells: an item that waited less than one computation found the device nearly idle, one that
    waited over four stood in a queue that hides no more latency.

    Small calls wait for each other, and travel joined, while a few items are in flight: messages cost more than bytes.
    One is enough where the way takes longer than the computation: there company gains more than an early start. Else
    they are two, so that the device always has a next one.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self.size = _START if limit is None else limit
        self._most = self.size
        self._far = 0.0  # the share of items, of late, whose way took longer

    def allow(self, most: int) -> None:
        """Hold the window under what the server allows a stream; 0 is not said."""
        most = most or _FEW
        self._most = most if self._limit is None else min(most, self._limit)
        self.size = max(1, min(self.size, self._most))

    def room(self, in_flight: int, *, backlog: bool) -> bool:
        """Whether one more item may go; backlog: it would be full, and gain nothing by company."""
        few = 1 if self._far > 0.5 else _FEW
        return in_flight < (self.size if backlog else min(few, self.size))

    def observe(self, timing: Timing, *, network_s: float, limited: bool) -> None:
        """Learn from one result.  way_s: its time outside of the server.  limited: others waited here for room."""
        if not timing.total_s:
            return
        self._far += _SMOOTH * ((network_s > timing.compute_s) - self._far)
        if self._limit is not None:
            return
        if timing.queue_s > _DEEP * timing.compute_s:
            self.size = max(min(_FEW, self._most), self.size - 1)
        elif limited and timing.queue_s < timing.compute_s:
            self.size = min(self._most, self.size + 1)

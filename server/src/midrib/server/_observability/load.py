"""The load of a server: the numbers by which Ray Serve adds and removes replicas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from midrib.server._engine.served_backbone import ServedBackbone


class Load(NamedTuple):
    """The load of a server.

    busy_share: the part of the time since the last reading that its devices computed; above 1 if several do.
    backlog_s: the seconds of computing that wait in its queues.
    """

    busy_share: float
    backlog_s: float


class LoadMeter:
    """Reads the load of a server repeatedly.

    served: returns the backbones that serve now.  clock: in seconds.
    """

    def __init__(
        self, served: Callable[[], Iterable[ServedBackbone]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._served = served
        self._clock = clock
        self._read_at = clock()
        self._computed_s: dict[ServedBackbone, float] = {}

    def read(self) -> Load:
        """Return the load since the last reading, or since the meter was made."""
        served = list(self._served())
        now, before = self._clock(), self._computed_s
        self._computed_s = {backbone: backbone.totals.compute_s for backbone in served}
        computed_s = sum(seconds - before.get(backbone, 0.0) for backbone, seconds in self._computed_s.items())
        elapsed_s, self._read_at = now - self._read_at, now
        backlog_s = sum(backbone.batcher.queue.budget.seconds_of(backbone.batcher.queued_cost) for backbone in served)
        return Load(computed_s / elapsed_s if elapsed_s > 0 else 0.0, backlog_s)

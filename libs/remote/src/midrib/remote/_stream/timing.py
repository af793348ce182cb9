"""The time that remote items spend in each stage, to show why a training step waits."""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import Any

from midrib.remote._items.codec import Timing
from midrib.remote._stream.call import Message


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds summed over items, by stage. The difference of two snapshots is the time of a step.

    waiting_s: queued in this client.  encode_s: being encoded.  wire_s: between client and server, both directions.
    queue_s, compute_s: queued and computed on the server, by its clock.  hedged: messages that were sent to a second
    server as well.
    """

    items: int = 0
    rows: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    waiting_s: float = 0.0
    encode_s: float = 0.0
    wire_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    hedged: int = 0
    shared_items: int = 0

    def __sub__(self, earlier: StageTimes) -> StageTimes:
        return StageTimes(*(getattr(self, name) - getattr(earlier, name) for name in self.__slots__))


class TimeTotals:
    """Adds up the times of items. `add` is for the loop, `stage_times` for any thread."""

    def __init__(self) -> None:
        self._sums: tuple[Any, ...] = (0,) * len(StageTimes.__slots__)

    @property
    def stage_times(self) -> StageTimes:
        """The sums so far, all over the same items."""
        return StageTimes(*self._sums)

    def add(self, message: Message, now: float, server: Timing) -> None:
        """Count one item, whose result came at `now` by time.monotonic(). server: the times that came with it."""
        item = (  # in the order of StageTimes' fields
            1,
            message.rows,
            message.size,
            message.reply_size,
            message.sent_at - message.encode_s - message.parts[0].queued_at,
            message.encode_s,
            max(0.0, now - message.sent_at - server.total_s),
            server.queue_s,
            server.compute_s,
            message.hedged,
            message.shared,
        )
        self._sums = tuple(map(add, self._sums, item))

"""Where the time of remote items went: what makes a step wait."""

from __future__ import annotations

from dataclasses import dataclass

from midrib.remote._call import Message
from midrib.remote._codec import Timing


@dataclass(frozen=True, slots=True)
class Stall:
    """Seconds summed over items, by where they were spent; differences of two snapshots tell a step's own.

    waiting_s: queued in this client.  encode_s: made into messages.  wire_s: on the way there and back.
    queue_s, compute_s: on the server, by its own clock.  hedged: messages that were sent to a second server as well.
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

    def __sub__(self, earlier: Stall) -> Stall:
        return Stall(*(getattr(self, name) - getattr(earlier, name) for name in self.__slots__))


class Totals:
    """Adds up items; written on the loop only, read from anywhere by `stall`."""

    def __init__(self) -> None:
        self.stall = Stall()

    def add(self, message: Message, now: float, server: Timing) -> None:
        """One item's result, which came now."""
        last = self.stall
        waiting_s = message.sent_at - message.encode_s - message.parts[0].queued_at
        self.stall = Stall(
            items=last.items + 1,
            rows=last.rows + message.rows,
            sent_bytes=last.sent_bytes + message.size,
            received_bytes=last.received_bytes + message.reply_size,
            waiting_s=last.waiting_s + waiting_s,
            encode_s=last.encode_s + message.encode_s,
            wire_s=last.wire_s + max(0.0, now - message.sent_at - server.total_s),
            queue_s=last.queue_s + server.queue_s,
            compute_s=last.compute_s + server.compute_s,
            hedged=last.hedged + message.hedged,
        )

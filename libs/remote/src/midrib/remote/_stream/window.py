"""The messages of a stream that wait for their results, and how many of them there may be."""

from __future__ import annotations

import math
import time
from typing import Final

from midrib.remote._items.codec import Timing
from midrib.remote._stream.call import Message

_START: Final = 4
_FEW: Final = 2
_DEEP: Final = 4.0
_SMOOTH: Final = 1 / 8
_LEAST_BUDGET_BYTES: Final = 128 << 10
_SHRUNK_S: Final = 300.0


class MessagesInFlight:
    """The messages that one stream has sent and that have no result yet, by item id."""

    def __init__(self) -> None:
        self._messages: dict[int, Message] = {}
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._messages)

    def new_id(self) -> int:
        """Return an item id that this stream has not used before."""
        self._next_id += 1
        return self._next_id - 1

    def add(self, item_id: int, message: Message) -> None:
        """Count a message that is about to be sent."""
        self._messages[item_id] = message

    def pop(self, item_id: int) -> Message | None:
        """Return the message of a result; None for an id that is unknown or was answered before."""
        return self._messages.pop(item_id, None)

    def pop_all(self) -> list[Message]:
        """Return the messages without a result, in the order in which they were sent, and forget them."""
        messages, self._messages = list(self._messages.values()), {}
        return messages

    def oldest_sent_at(self) -> float:
        """Return when the oldest message was sent, by time.monotonic(); now, if there is none."""
        return min((message.sent_at for message in self._messages.values()), default=time.monotonic())

    def sent_before(self, moment: float) -> list[Message]:
        """Return the messages that were sent before a moment of time.monotonic()."""
        return [message for message in self._messages.values() if message.sent_at <= moment]

    def rows(self) -> int:
        """Return the number of rows of all messages."""
        return sum(message.rows for message in self._messages.values())

    def size(self) -> int:
        """Return the number of bytes of all messages."""
        return sum(message.size for message in self._messages.values())


class ByteBudget:
    """The bytes that one stream may send.

    Unlimited, until a stream breaks while it is written to: proxies limit the bytes of a call (nginx: 1 MB by default),
    and a stream is one call. Then each stream may send half of the broken one's bytes, for five minutes.
    """

    def __init__(self) -> None:
        self._limit = math.inf
        self._until = 0.0

    def allows(self, sent: int, size: int) -> bool:
        """Return whether a stream that sent some bytes may send a message of `size` more; the first one always."""
        return not sent or sent + size <= self._limit or time.monotonic() > self._until

    def shrink(self, sent: int) -> float:
        """Learn that a stream broke after `sent` bytes. Return the bytes that a message may have from now on."""
        self._limit = max(_LEAST_BUDGET_BYTES, sent / 2)
        self._until = time.monotonic() + _SHRUNK_S
        return self._limit / 2


class StreamWindow:
    """The number of items that a stream may have in flight.

    Grows while the server runs out of this client's items, and shrinks while they queue up there. The timing that the
    server sends with each result decides: an item that was queued for less than one computation found the device
    nearly idle; one that was queued for more than four computations waited in a queue that hides no more latency.

    Small calls join into larger messages while a few items are in flight, because a message costs more than its bytes.
    One item in flight is enough if the network takes longer than the computation: joining then gains more than sending
    early. Otherwise there are two, so that the device always has a next item.

    budget: the bytes that each of the connection's streams may send.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.budget = ByteBudget()
        self._limit = limit
        self.size = _START if limit is None else limit
        self._most = self.size
        self._network_bound = 0.0  # the share of recent items whose network time exceeded their computation

    def allow(self, most: int) -> None:
        """Keep the window within the items that the server allows a stream; 0 if it does not say."""
        most = most or _FEW
        self._most = most if self._limit is None else min(most, self._limit)
        self.size = max(1, min(self.size, self._most))

    def room(self, in_flight: int, *, backlog: bool) -> bool:
        """Return whether another item may be sent. backlog: enough is queued to fill it, so waiting gains nothing."""
        return in_flight < (self.size if backlog else self._few)

    def slots(self, in_flight: int) -> int:
        """Return how many messages the device can use now, to compute without a pause; 0 if the network is slower."""
        return 0 if self._network_bound > 0.5 else max(0, self._few - in_flight)

    @property
    def _few(self) -> int:
        return min(1 if self._network_bound > 0.5 else _FEW, self.size)

    def observe(self, timing: Timing, *, network_s: float, limited: bool) -> None:
        """Learn from one result. network_s: seconds outside the server. limited: others waited here for room."""
        if not timing.total_s:
            return
        self._network_bound += _SMOOTH * ((network_s > timing.compute_s) - self._network_bound)
        if self._limit is not None:
            return
        if timing.queue_s > _DEEP * timing.compute_s:
            self.size = max(min(_FEW, self._most), self.size - 1)
        elif limited and timing.queue_s < timing.compute_s:
            self.size = min(self._most, self.size + 1)

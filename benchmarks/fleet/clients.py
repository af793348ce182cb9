"""Simulated clients, which follow the rules of `midrib.remote`: its windows, balancing, back-off and hedging."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from replicas import BIN_S, NETWORK_S, Clock, Message, Replica, Request, Traffic

from midrib.remote._connect import balance, dns, retries
from midrib.remote._items.codec import Timing
from midrib.remote._stream.window import StreamWindow
from midrib.wire import MidribError, UnavailableError

_MOST_ROWS: Final = 64
_MOST_STREAM_ITEMS: Final = 64
_REFUSED: Final = UnavailableError("connection refused")


@dataclass(frozen=True)
class Rules:
    """The client's rules. By default those of `midrib.remote`.

    order: the connections in the order in which they may take an item.  divide: among how many messages the queue is
    divided.  choose: a client's replicas.  wait_s: the seconds until the next attempt.
    """

    order: Callable[[list[Any]], list[Any]] = balance.by_load
    divide: Callable[[list[Any], int], int] = balance.count_slots
    choose: Callable[[list[str], int, str], list[str]] = balance.choose_machines
    wait_s: Callable[..., float] = retries.wait_s
    hedge_s: float | None = None


@dataclass(eq=False)
class Fleet:
    """The parts that all clients share.  hedged: messages that were sent to a second replica."""

    clock: Clock
    replicas: list[Replica]
    traffic: Traffic
    rules: Rules
    hedged: int = 0


class Client:
    """A process with one caller. Each request goes to one of its replicas."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.queue: deque[Request] = deque()
        names = {f"10.0.0.{replica.index}:50051": replica for replica in fleet.replicas}
        chosen = fleet.rules.choose(sorted(names), dns.MAX_MACHINES, name)
        self._connections = [Connection(self, names[machine]) for machine in chosen]
        self._hedging = False

    def submit(self, request: Request) -> None:
        """Queue a request and wake the connections."""
        self.queue.append(request)
        self.wake()
        if self.fleet.rules.hedge_s is not None and not self._hedging:
            self._hedging = True
            self._hedge_later(self.fleet.rules.hedge_s)

    def requeue(self, requests: list[Request]) -> None:
        """Queue requests without an answer again, before everything else."""
        unanswered = [request for request in requests if request.done_at == float("inf")]
        if unanswered:
            self.queue.extendleft(reversed(unanswered))
            self.wake()

    def wake(self) -> None:
        """Have every connection look for work, as `ConnectionGroup.wake` does."""
        for connection in self.fleet.rules.order(self._connections):
            connection.wake()

    def most(self) -> int:
        """Return how many of the queued requests the next message may have."""
        queued = len(self.queue)
        return math.ceil(queued / self.fleet.rules.divide(self._connections, queued))

    def failing(self) -> int:
        """Return how many of its replicas the client tries again at present."""
        return sum(connection.failing for connection in self._connections)

    def _hedge_later(self, hedge_s: float) -> None:
        self.fleet.clock.later(hedge_s / 4, self._hedge, hedge_s)

    def _hedge(self, hedge_s: float) -> None:
        """Send messages that wait since hedge_s to another replica as well, as `ConnectionGroup` does."""
        moment = self.fleet.clock.now - hedge_s
        for sender in self._connections:
            for message in [message for message in sender.in_flight if message.sent_at <= moment]:
                self._send_copy(sender, message)
        if any(connection.busy for connection in self._connections):
            self._hedge_later(hedge_s)
        else:
            self._hedging = False

    def _send_copy(self, sender: Connection, message: Message) -> None:
        if message.hedged or message.copied:
            return
        candidates = [connection for connection in self._connections if connection is not sender and connection.opened]
        for connection in self.fleet.rules.order(candidates)[:1]:
            connection.send(message.requests, hedged=True)
            message.copied = True
            self.fleet.hedged += 1


@dataclass(eq=False)
class Connection:
    """The stream of one client to one replica, with the states of `midrib.remote`'s Connection and Exchange."""

    client: Client
    replica: Replica
    window: StreamWindow = field(default_factory=StreamWindow)
    in_flight: dict[Message, None] = field(default_factory=dict)
    opened: bool = False
    _alive: bool = False
    _failed: bool = False

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed and another one follows."""
        return self._alive and self._failed

    @property
    def busy(self) -> int:
        """The number of messages in flight."""
        return len(self.in_flight)

    @property
    def slots(self) -> int:
        """How many messages its replica can use now."""
        return self.window.slots(self.busy) if self._alive and not self._failed else 0

    def wake(self) -> None:
        """Take work, and open a stream if there is none."""
        if not self._alive:
            self._alive = True
            self._attempt(1)
        self._pull()

    def send(self, requests: list[Request], *, hedged: bool = False) -> None:
        """Send requests as one message."""
        clock = self.client.fleet.clock
        message = Message(self, requests, clock.now, hedged=hedged)
        self.in_flight[message] = None
        clock.later(NETWORK_S, self.replica.receive, message)

    def answered(self, message: Message, timing: Timing) -> None:
        """Deliver a result, and take more work."""
        if message not in self.in_flight:
            return
        queue, now = self.client.queue, self.client.fleet.clock.now
        limited = len(self.in_flight) >= self.window.size and len(queue) > _MOST_ROWS
        del self.in_flight[message]
        for request in message.requests:
            request.done_at = min(request.done_at, now)
        self.window.observe(timing, network_s=2 * NETWORK_S, limited=limited)
        self._pull()
        self._end_if_drained()

    def refused(self, message: Message, error: MidribError) -> None:
        """Try the requests of a message again after the server's retry_after."""
        self.in_flight.pop(message, None)
        rules = self.client.fleet.rules
        self.client.fleet.clock.later(rules.wait_s(error), self.client.requeue, message.requests)
        self._end_if_drained()

    def broken(self) -> None:
        """Note that the replica is gone: its requests go elsewhere, and a stream is opened again if work is left."""
        self.opened = False
        messages, self.in_flight = list(self.in_flight), {}
        self.client.requeue([request for message in messages for request in message.requests])
        self._again()

    def go_away(self) -> None:
        """Send no more; the stream ends with its last result."""
        self.opened = False
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if not self.opened and not self.in_flight and self in self.replica.connections:
            del self.replica.connections[self]
            self._again()

    def _again(self) -> None:
        if self.client.queue:
            self._attempt(1)
        else:
            self._alive = False

    def _attempt(self, number: int) -> None:
        fleet = self.client.fleet
        fleet.traffic.connects[int(fleet.clock.now / BIN_S)] += 1
        fleet.clock.later(2 * NETWORK_S, self._opened, number)

    def _opened(self, number: int) -> None:
        fleet = self.client.fleet
        if self.replica.accepts:
            self.opened, self._failed = True, False
            self.replica.connections[self] = None
            self.window.allow(_MOST_STREAM_ITEMS)
            self._pull()
        elif self.client.queue:
            self._failed = True
            wait_s = fleet.rules.wait_s(_REFUSED, number, self.client.failing())
            fleet.clock.later(wait_s, self._attempt, number + 1)
        else:
            self._alive = False

    def _pull(self) -> None:
        queue = self.client.queue
        while self.opened and queue and self.window.room(self.busy, backlog=len(queue) > _MOST_ROWS):
            self.send([queue.popleft() for _ in range(min(self.client.most(), _MOST_ROWS))])

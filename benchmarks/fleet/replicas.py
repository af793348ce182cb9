"""Simulated replicas: each computes batches, and can crash, drain, restart and become slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import simpy

from midrib.remote._items.codec import Timing
from midrib.wire import Array, OverloadedError

if TYPE_CHECKING:
    from clients import Connection

# One way through the network.
NETWORK_S: Final = 0.0005
# The seconds of a batch: 80 rows a second in full batches, about those of a ViT-Tiny on two CPU cores.
_BATCH_S: Final = 0.04
_ROW_S: Final = 0.01
_MOST_ROWS: Final = 16
# Rows that may wait. Above it, the server refuses as its batcher does.
_MOST_WAITING: Final = 512
_REFUSAL: Final = OverloadedError("the queue is full", retry_after=0.1)
BIN_S: Final = 0.1
CAPACITY: Final = _MOST_ROWS / (_BATCH_S + _MOST_ROWS * _ROW_S)


class Clock:
    """The simulated time."""

    def __init__(self) -> None:
        self.environment = simpy.Environment()

    @property
    def now(self) -> float:
        """Seconds since the simulation began."""
        return float(self.environment.now)

    def later(self, seconds: float, action: Callable[..., object], *arguments: Any) -> None:
        """Call an action after some seconds."""
        timeout = self.environment.timeout(seconds)
        timeout.callbacks.append(lambda _: action(*arguments))


@dataclass
class Request:
    """A row that a caller waits for."""

    submitted_at: float
    done_at: float = float("inf")


@dataclass(eq=False)
class Message:
    """Requests that travel together.  hedged: this is a copy.  copied: a copy of this message was sent."""

    connection: Connection
    requests: list[Request]
    sent_at: float
    received_at: float = 0.0
    hedged: bool = False
    copied: bool = False


@dataclass(eq=False)
class Traffic:
    """Counts in bins of BIN_S.  rows: [replicas, bins], received.  connects: [bins], attempts to open a stream."""

    rows: Array
    connects: Array

    @staticmethod
    def of(replicas: int, seconds: float) -> Traffic:
        """Return counts of zero."""
        bins = int(seconds / BIN_S) + 1
        return Traffic(np.zeros((replicas, bins), np.int64), np.zeros(bins, np.int64))


@dataclass(eq=False)
class Replica:
    """A server with one device.  slowness: how many times longer than usual its batches take."""

    clock: Clock
    index: int
    traffic: Traffic
    slowness: float = 1.0
    accepts: bool = True
    connections: dict[Connection, None] = field(default_factory=dict)  # a set would have another order in each run
    _waiting: deque[Message] = field(default_factory=deque)
    _computing: bool = False
    _life: int = 0

    def receive(self, message: Message) -> None:
        """Queue a message, or refuse it."""
        if message.connection not in self.connections:
            return  # sent before the crash was noticed
        message.received_at = self.clock.now
        self.traffic.rows[self.index, int(self.clock.now / BIN_S)] += len(message.requests)
        if sum(len(waiting.requests) for waiting in self._waiting) >= _MOST_WAITING:
            self.clock.later(NETWORK_S, message.connection.refused, message, _REFUSAL)
            return
        self._waiting.append(message)
        if not self._computing:
            self._compute()

    def crash(self) -> None:
        """Lose everything; the operating system resets the connections."""
        self.accepts, self._computing = False, False
        self._life += 1
        self._waiting.clear()
        connections, self.connections = self.connections, {}
        for connection in connections:
            self.clock.later(NETWORK_S, connection.broken)

    def drain(self) -> None:
        """Refuse new streams and announce the end to the present ones, which end after their last result."""
        self.accepts = False
        for connection in self.connections:
            self.clock.later(NETWORK_S, connection.go_away)

    def restart(self) -> None:
        """Accept streams again."""
        self.accepts = True

    def _compute(self) -> None:
        batch: list[Message] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].requests) <= _MOST_ROWS):
            batch.append(self._waiting.popleft())
            rows += len(batch[-1].requests)
        seconds = self.slowness * (_BATCH_S * -(-rows // _MOST_ROWS) + _ROW_S * rows)
        self._computing = True
        self.clock.later(seconds, self._finish, batch, self._life, seconds)

    def _finish(self, batch: list[Message], life: int, seconds: float) -> None:
        if life != self._life:
            return
        for message in batch:
            total_s = self.clock.now - message.received_at
            timing = Timing(total_s - seconds, seconds, total_s)
            self.clock.later(NETWORK_S, message.connection.answered, message, timing)
        self._computing = False
        if self._waiting:
            self._compute()

"""The parts of a session that its connections work with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from midrib.remote._connect.address import Endpoint
from midrib.remote._stream.queue import Queue
from midrib.remote._stream.request import CallPolicy, StreamSpec
from midrib.remote._stream.results import Results


@dataclass(frozen=True)
class SessionContext:
    """The function that a session calls, the servers that compute it, and the messages that wait for them.

    reply_row_bytes: the size of one row of a result, at most.
    """

    endpoint: Endpoint
    spec: StreamSpec
    policy: CallPolicy
    queue: Queue
    results: Results
    reply_row_bytes: int

    @cached_property
    def opening(self) -> bytes:
        """The first request of each stream."""
        return self.spec.opening(self.policy.priority)

    @property
    def stall_s(self) -> float:
        """Seconds of silence after which a server that owes a result is given up: a caller has two more attempts."""
        return max(1.0, self.policy.timeout / 3)

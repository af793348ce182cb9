"""The parts of a session that its connections work with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from midrib.remote._connect.address import Endpoint
from midrib.remote._stream.queue import Queue
from midrib.remote._stream.request import CallPolicy, StreamSpec
from midrib.remote._stream.results import Results
from midrib.v1.embedding_pb2 import Opened
from midrib.wire import can_share_memory


@dataclass
class Route:
    """How the rows of a session travel. refusal: why the last stream has no shared memory; "" if it has."""

    refusal: str = "no stream has been opened yet"


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
    route: Route = field(default_factory=Route)

    @property
    def shares_memory(self) -> bool:
        """Whether streams ask for shared memory."""
        return self.policy.shared_memory is not False and can_share_memory()

    def refusal(self, opened: Opened) -> str:
        """Return why a stream that was opened has no shared memory; "" if its server offers some."""
        if self.policy.shared_memory is False:
            return "it is turned off by shared_memory=False"
        if not can_share_memory():
            return "this system cannot share memory: that needs Linux"
        return "" if opened.HasField("shared_memory") else "the server offers none"

    @cached_property
    def opening(self) -> bytes:
        """The first request of each stream."""
        return self.spec.opening(self.policy.priority, shared_memory=self.shares_memory)

    @property
    def stall_s(self) -> float:
        """Seconds of silence after which a server that owes a result is given up: a caller has two more attempts."""
        return max(1.0, self.policy.timeout / 3)

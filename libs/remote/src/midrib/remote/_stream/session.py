"""The calls of one served backbone, on their way from its callers to the connections and back."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Hashable
from typing import NoReturn

from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._connect.diagnosis import NOBODY
from midrib.remote._connect.event_loop import register, runtime
from midrib.remote._connect.retries import retriable, wait_s
from midrib.remote._items.codec import Result
from midrib.remote._items.rows import Rows
from midrib.remote._stream.call import Call, Message, Part
from midrib.remote._stream.connection import Connection
from midrib.remote._stream.queue import Queue
from midrib.remote._stream.request import CallPolicy, StreamSpec
from midrib.remote._stream.timing import Totals
from midrib.remote._stream.waiters import finished
from midrib.wire import (
    Array,
    DeadlineExceededError,
    InternalError,
    MidribError,
    RevisionMismatchError,
    UnavailableError,
)


class Session:
    """Takes calls from any thread; its connections, on the loop, take messages. One per endpoint and Wanted."""

    def __init__(self, endpoint: Endpoint, wanted: StreamSpec, info: BackboneInfo, policy: CallPolicy) -> None:
        self.endpoint = endpoint
        self.opening = wanted.opening(policy.priority)
        self.revision = wanted.revision
        self.queue = Queue(info)
        self.totals = Totals()
        self.stall_s = max(1.0, policy.timeout / 3)  # leaves a caller two more tries
        self._spec = wanted
        self._name = wanted.name
        self._policy = policy
        self._delayed: list[Part] = []
        self._connections: list[Connection] = []
        self._wake_due = self._closing = False
        register(self)

    def submit(self, rows: Rows) -> Call:
        """Queue a call, from any thread; the caller then waits for it, or leaves it.

        Raises LimitExceededError where a single row is over the server's message limit.
        """
        rows.freeze()
        call = Call(rows)
        self.queue.add(call)
        if not self._wake_due:
            self._wake_soon()
        return call

    def wait(self, call: Call, timeout: float) -> Array:
        """The features of a call. Raises DeadlineExceededError, which tells what went wrong meanwhile."""
        try:
            in_time = call.wait(timeout)
        except BaseException:
            call.leave()
            raise
        if not in_time:
            call.leave()
            self._give_up(timeout)
        return call.result()

    async def wait_async(self, call: Call, timeout: float) -> Array:
        """The same for a caller on an event loop of its own."""
        try:
            await finished(call, timeout)
        except TimeoutError:
            call.leave()
            self._give_up(timeout)
        except BaseException:
            call.leave()
            raise
        return call.result()

    def on_result(self, message: Message, result: Result) -> None:
        """Settle a message's parts: deliver them, fail them, or queue them again."""
        outcome = result.outcome
        if isinstance(outcome, MidribError):
            self._failed(message.parts, outcome)
        elif outcome.ndim != 2 or len(outcome) != message.rows:
            text = f"{self._name} answered {message.rows} rows with shape {list(outcome.shape)}: a fault of the server"
            self._failed(message.parts, InternalError(text))
        else:
            message.deliver(outcome)
            self.totals.add(message, time.monotonic(), result.timing)

    def add_machines(self, address: str, count: int) -> None:
        """Add a connection for each machine behind an address that has several."""
        known = {connection.machine_index for connection in self._connections if connection.address == address}
        more = [Connection(self, address, self._policy.window, index) for index in range(count) if index not in known]
        self._connections.extend(more)
        if more and not self._closing:
            self._wake()

    def on_sent(self, connection: Connection, message: Message) -> None:
        """A connection has sent a message: after a while another may be asked as well."""
        if self._policy.hedge_s is not None and not message.hedged:
            asyncio.get_running_loop().call_later(self._policy.hedge_s, self._hedge, connection, message)

    def requeue(self, messages: list[Message]) -> None:
        """Queue again what a broken stream still owed, before all else."""
        parts = [part for message in messages for part in message.parts if not part.done]
        self.queue.put_first(parts)
        if parts:
            self._wake()

    def on_trouble(self) -> None:
        """Fail queued calls that follow the server's revision, if only servers of another revision answer."""
        if not self._spec.follows or any(
            connection.alive and connection.failure is None for connection in self._connections
        ):
            return
        changed = [
            connection.failure
            for connection in self._connections
            if isinstance(connection.failure, RevisionMismatchError)
        ]
        while changed and (part := self.queue.take_one()) is not None:
            part.call.fail(changed[0])

    def on_failure(self, connection: Connection, error: MidribError) -> None:
        """Fail all queued calls with the error of a connection that gave up, if it was the last one."""
        self.on_trouble()
        if any(other.alive for other in self._connections if other is not connection):
            return
        if retriable(error):  # nobody waited when it gave up
            if self.queue.busy():
                self._wake()
            return
        while (part := self.queue.take_one()) is not None:
            part.call.fail(error)

    def close(self) -> None:
        """End the streams now; later calls open them again. From any thread but the loop's."""
        runtime().start(self._end_streams()).result()

    async def close_streams(self) -> None:
        """End the streams for a fork or at exit; unanswered calls stay queued until `resume`."""
        self._closing = True
        await self._end_streams()
        self.queue.put_first(self._delayed)
        self._delayed = []

    async def _end_streams(self) -> None:
        """End the streams that are open now; calls that still wait open others."""
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.close()
        if self.queue:
            self._wake()

    def resume(self) -> None:
        """Go on with what is queued, on a new loop."""
        self._wake_due = self._closing = False
        if self.queue:
            self._wake_soon()

    def forget(self) -> None:
        """In a forked child: what is queued is the parent's."""
        self.queue.clear()
        self._delayed = []
        self._connections, self._wake_due, self._closing = [], False, False

    def _hedge(self, connection: Connection, message: Message) -> None:
        parts = [part for part in message.parts if not part.done]
        others = [
            other for other in self._connections if other is not connection and other.alive and other.failure is None
        ]
        if parts and others:
            min(others, key=lambda other: other.busy).hedge(Message(parts, hedged=True))

    def _failed(self, parts: list[Part], error: MidribError) -> None:
        parts = [part for part in parts if not part.done]
        if retriable(error):
            self._delayed.extend(parts)
            asyncio.get_running_loop().call_later(wait_s(error), self._again, parts)
            return
        if len(parts) == 1:
            parts[0].call.fail(error)
            return
        for part in parts:  # only one of them may be at fault
            part.alone = True
        self.queue.put_first(parts)
        self._wake()

    def _again(self, parts: list[Part]) -> None:
        left = [part for part in parts if part in self._delayed]  # none, where the streams were closed meanwhile
        for part in left:
            self._delayed.remove(part)
        self.queue.put_first(left)
        self._wake()

    def _wake_soon(self) -> None:
        self._wake_due = True
        try:
            runtime().soon(self._wake)
        except RuntimeError:  # the loop closed just now, for a fork: resume follows
            self._wake_due = False

    def _wake(self) -> None:
        self._wake_due = False
        if self._closing:
            return  # `resume` wakes again
        if not self._connections:
            self._connections = [Connection(self, address, self._policy.window) for address in self.endpoint.addresses]
        awake = [connection.wake() for connection in self._connections]
        if not any(awake):
            for connection in self._connections:
                connection.wake(even_if_refused=True)

    def _give_up(self, timeout: float) -> NoReturn:
        """Time is up: say that nobody was there at all, or what went wrong meanwhile."""
        failures = [connection.failure for connection in self._connections]
        changed = next((failure for failure in failures if isinstance(failure, RevisionMismatchError)), None)
        if changed is not None and not any(
            connection.alive and connection.failure is None for connection in self._connections
        ):
            raise RevisionMismatchError(changed.message) from None
        cause = next((failure for failure in failures if failure is not None), None)
        if cause is not None and all(failure is not None and failure.reason in NOBODY for failure in failures):
            raise UnavailableError(cause.message, reason=cause.reason) from None
        why = "" if cause is None else f" ({cause})"
        raise DeadlineExceededError(
            f"{self._name} at {self.endpoint}: no answer within {timeout:g} s{why}: "
            "raise timeout=, or ask `midrib doctor`"
        ) from cause


_sessions: weakref.WeakValueDictionary[Hashable, Session] = weakref.WeakValueDictionary()
_sessions_lock = threading.RLock()  # a signal handler may call while its thread holds the lock


def session_for(endpoint: Endpoint, wanted: StreamSpec, info: BackboneInfo, policy: CallPolicy) -> Session:
    """The process's one session for these: whoever asks the same function travels together."""
    key = (endpoint, wanted, policy)
    with _sessions_lock:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = Session(endpoint, wanted, info, policy)
        return session

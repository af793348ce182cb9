"""The queue of one served backbone: what callers ask, joined into messages for the lanes to send."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Hashable
from functools import partial
from typing import Final, NoReturn

from midrib.remote._address import Endpoint
from midrib.remote._back_off import retriable, wait_s
from midrib.remote._call import Call, Message, Part, cut
from midrib.remote._codec import Result
from midrib.remote._diagnosis import NOBODY
from midrib.remote._info import BackboneInfo
from midrib.remote._lane import Lane
from midrib.remote._post import finished
from midrib.remote._rows import Rows
from midrib.remote._runtime import register, runtime
from midrib.remote._timing import Totals
from midrib.remote._wanted import Manner, Wanted
from midrib.wire import Array, DeadlineExceededError, InternalError, LimitExceededError, MidribError, UnavailableError

# Large calls travel in pieces, so that the server computes one while the next is on its way.
_PART_BYTES: Final = 2 << 20
# Calls join until a message has half of this: from there on its own cost is small beside that of its bytes.
_JOIN_BYTES: Final = 1 << 20
# Equal calls are looked for among small ones only: there, finding one costs less than sending one.
_SAME_BYTES: Final = 16 << 10
_DEFAULT_MESSAGE_BYTES: Final = 4 << 20
_HEAD_BYTES: Final = 256


class Session:
    """Takes calls from any thread; its lanes, on the loop, take messages. One per endpoint and Wanted."""

    def __init__(self, endpoint: Endpoint, wanted: Wanted, info: BackboneInfo, manner: Manner) -> None:
        self.endpoint = endpoint
        self.opening = wanted.opening(manner.priority)
        self.revision = wanted.revision
        self.totals = Totals()
        self.stall_s = max(1.0, manner.timeout / 3)  # leaves a caller two more tries
        self._name = wanted.name
        self._max_bytes = (info.max_message_bytes or _DEFAULT_MESSAGE_BYTES) - _HEAD_BYTES
        self._join_bytes = min(_JOIN_BYTES, self._max_bytes)
        # The answer must fit a message as well: at most 8 bytes a feature.
        fitting = max(1, self._max_bytes // (8 * max(1, info.num_features)))
        self._max_rows = min(info.max_rows or fitting, fitting)
        self._manner = manner
        self._lock = threading.Lock()
        self._pending: deque[Part] = deque()
        self._delayed: list[Part] = []
        self._same: dict[Hashable, Call] = {}
        self._lanes: list[Lane] = []
        self._wake_due = self._closing = False
        register(self)

    def submit(self, rows: Rows) -> Call:
        """Queue a call, or join an equal one in flight; any thread. The caller waits, or leaves.

        Raises LimitExceededError where a single row is over the server's message limit.
        """
        if rows.nbytes > _SAME_BYTES:
            call = Call(rows)
            self._pending.extend(self._cut(call))
        else:
            sample = rows.sample()
            with self._lock:
                found = self._same.get(sample)
                if found is not None and found.rows.equals(rows) and found.join():
                    return found
                call = Call(rows, partial(self._same.pop, sample, None))
                self._pending.extend(self._cut(call))
                self._same[sample] = call
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

    def take(self) -> Message | None:
        """The next message: the oldest part that someone still waits for, and small ones like it."""
        first = self._next()
        if first is None:
            return None
        parts, count, size = [first], first.rows.count, first.rows.nbytes
        key, pending = first.rows.key, self._pending
        while not first.alone and size <= self._join_bytes // 2 and pending:
            other = pending[0]
            rows = other.rows
            count += rows.count
            size += rows.nbytes
            if other.alone or rows.key != key or count > self._max_rows or size > self._join_bytes:
                break
            pending.popleft()
            if not other.done:
                parts.append(other)
        return Message(parts)

    def busy(self) -> bool:
        """Whether anyone waits for something that is queued."""
        return any(not part.done for part in list(self._pending))

    def backlog(self) -> bool:
        """Whether more is queued than joins into one message, so that waiting for company gains nothing."""
        if not self._pending:
            return False
        rows = self._pending[0].rows
        waiting = len(self._pending)
        return rows.nbytes * waiting > self._join_bytes // 2 or rows.count * waiting > self._max_rows

    def answered(self, message: Message, result: Result) -> None:
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

    def spread(self, address: str, count: int) -> None:
        """An address turned out to be several machines: a lane for each."""
        turns = {lane.turn for lane in self._lanes if lane.address == address}
        more = [Lane(self, address, self._manner.window, turn) for turn in range(count) if turn not in turns]
        self._lanes.extend(more)
        if more and not self._closing:
            self._wake()

    def sent(self, lane: Lane, message: Message) -> None:
        """A lane has sent a message: after a while another may be asked as well."""
        if self._manner.hedge_s is not None and not message.hedged:
            asyncio.get_running_loop().call_later(self._manner.hedge_s, self._hedge, lane, message)

    def unanswered(self, messages: list[Message]) -> None:
        """Queue again what a broken stream still owed, before all else."""
        parts = [part for message in messages for part in message.parts if not part.done]
        self._pending.extendleft(reversed(parts))
        if parts:
            self._wake()

    def refused(self, lane: Lane, error: MidribError) -> None:
        """A lane gave up. With no other left, its error is everyone's."""
        if any(other.alive for other in self._lanes if other is not lane):
            return
        if retriable(error):  # nobody waited when it gave up
            if self.busy():
                self._wake()
            return
        while (part := self._next()) is not None:
            part.call.fail(error)

    def close(self) -> None:
        """End the streams now; later calls open them again. From any thread but the loop's."""
        runtime().start(self.close_streams()).result()
        self.resume()

    async def close_streams(self) -> None:
        """End the streams; what is unanswered stays queued."""
        self._closing = True
        for lane in self._lanes:
            await lane.close()
        self._lanes = []
        self._pending.extendleft(self._delayed)
        self._delayed = []

    def resume(self) -> None:
        """Go on with what is queued, on a new loop."""
        self._wake_due = self._closing = False
        if self._pending:
            self._wake_soon()

    def forget(self) -> None:
        """In a forked child: what is queued is the parent's."""
        self._lock = threading.Lock()
        self._pending, self._delayed, self._same = deque(), [], {}
        self._lanes, self._wake_due, self._closing = [], False, False

    def _hedge(self, lane: Lane, message: Message) -> None:
        parts = [part for part in message.parts if not part.done]
        others = [other for other in self._lanes if other is not lane and other.alive and other.failure is None]
        if parts and others:
            min(others, key=lambda other: other.busy).also(Message(parts, hedged=True))

    def _cut(self, call: Call) -> list[Part]:
        rows, most_bytes = call.rows, min(_PART_BYTES, self._max_bytes)
        if rows.count <= self._max_rows and rows.nbytes <= most_bytes:  # as nearly all are
            return [Part(call, rows, 0, time.monotonic())]
        parts = list(cut(call, self._max_rows, most_bytes, time.monotonic()))
        for part in parts:
            if part.rows.nbytes > self._max_bytes:
                raise LimitExceededError(
                    f"one row takes {part.rows.nbytes} bytes, {self._name} takes messages of {self._max_bytes}: "
                    "make it smaller, or raise the server's max_message_bytes"
                )
        return parts

    def _next(self) -> Part | None:
        while self._pending:
            part = self._pending.popleft()
            if not part.done:
                return part
        return None

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
        self._pending.extendleft(reversed(parts))
        self._wake()

    def _again(self, parts: list[Part]) -> None:
        left = [part for part in parts if part in self._delayed]  # none, where the streams were closed meanwhile
        for part in left:
            self._delayed.remove(part)
        self._pending.extendleft(reversed(left))
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
        if not self._lanes:
            self._lanes = [Lane(self, address, self._manner.window) for address in self.endpoint.addresses]
        awake = [lane.wake() for lane in self._lanes]
        if not any(awake):
            for lane in self._lanes:
                lane.wake(even_if_refused=True)

    def _give_up(self, timeout: float) -> NoReturn:
        """Time is up: say that nobody was there at all, or what went wrong meanwhile."""
        failures = [lane.failure for lane in self._lanes]
        cause = next((failure for failure in failures if failure is not None), None)
        if cause is not None and all(failure is not None and failure.reason in NOBODY for failure in failures):
            raise UnavailableError(cause.message, reason=cause.reason) from None
        why = "" if cause is None else f" ({cause})"
        raise DeadlineExceededError(
            f"{self._name} at {self.endpoint}: no answer within {timeout:g} s{why}: "
            "raise timeout=, or ask `midrib doctor`"
        ) from cause


_sessions: weakref.WeakValueDictionary[Hashable, Session] = weakref.WeakValueDictionary()
_sessions_lock = threading.Lock()


def session_for(endpoint: Endpoint, wanted: Wanted, info: BackboneInfo, manner: Manner) -> Session:
    """The process's one session for these: whoever asks the same function travels together."""
    key = (endpoint, wanted, manner)
    with _sessions_lock:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = Session(endpoint, wanted, info, manner)
        return session

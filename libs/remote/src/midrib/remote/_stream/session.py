"""The calls of one served function, from any thread: queued here, sent by the connections, answered by the results."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from typing import NoReturn

from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._connect.event_loop import register, runtime
from midrib.remote._connect.unary import run_on_loop
from midrib.remote._items.rows import Rows
from midrib.remote._stream.call import StreamedCall
from midrib.remote._stream.connections import ConnectionGroup
from midrib.remote._stream.context import SessionContext
from midrib.remote._stream.queue import Queue
from midrib.remote._stream.request import CallPolicy, StreamSpec
from midrib.remote._stream.results import Results
from midrib.remote._stream.timing import StageTimes
from midrib.remote._stream.waiters import finished
from midrib.wire import Array, DeadlineExceededError

_MAX_FEATURE_BYTES = 8


class CallSession:
    """Takes calls from any thread and returns their rows. A process has one per endpoint, function and policy."""

    def __init__(self, endpoint: Endpoint, spec: StreamSpec, info: BackboneInfo, policy: CallPolicy) -> None:
        self.queue = Queue(info)
        self.results = Results(spec.name, spec.dimensions or info.num_features, self.queue, self._wake)
        reply_row_bytes = _MAX_FEATURE_BYTES * info.num_features
        self._context = SessionContext(endpoint, spec, policy, self.queue, self.results, reply_row_bytes)
        self._connections = ConnectionGroup(self._context)
        self._wake_due = self._closing = False
        # The threads that have set `_wake_due` and not woken the loop yet. A signal handler may call just then, and its
        # thread continues only after that call.
        self._waking: set[int] = set()
        register(self)

    @property
    def stage_times(self) -> StageTimes:
        """The time that all items so far spent in each stage."""
        return self.results.totals.stage_times

    @property
    def shared_memory_refusal(self) -> str:
        """Why the last stream has no shared memory; "" if it has."""
        return self._context.route.refusal

    def submit(self, rows: Rows) -> StreamedCall:
        """Queue a call, from any thread; the caller then waits for it, or leaves it.

        Raises LimitExceededError if a single row exceeds the server's message limit, UnavailableError if the event loop
        cannot start.
        """
        rows.freeze()
        call = StreamedCall(rows)
        self.queue.add(call)
        if not self._wake_due or threading.get_ident() in self._waking:
            try:
                self._wake_soon()
            except BaseException:
                call.leave()
                raise
        return call

    def wait(self, call: StreamedCall, timeout: float) -> Array:
        """Return the features of a call, [rows, num_features], within timeout seconds.

        Raises the MidribError that the call failed with; DeadlineExceededError, with the last failure, if time is up;
        UnavailableError if no server could be reached.
        """
        try:
            in_time = call.wait(timeout)
        except BaseException:
            call.leave()
            raise
        if not in_time:
            call.leave()
            self._give_up(timeout)
        return call.result()

    async def wait_async(self, call: StreamedCall, timeout: float) -> Array:
        """Return the features [rows, num_features] of a call, as `wait` does, without blocking the event loop."""
        try:
            await finished(call, timeout)
        except TimeoutError:
            call.leave()
            self._give_up(timeout)
        except BaseException:
            call.leave()
            raise
        return call.result()

    def close(self) -> None:
        """End the streams now; later calls open them again. From any thread but the loop's."""
        run_on_loop(self._end_streams)

    async def close_streams(self) -> None:
        """End the streams for a fork or at exit; calls without a result stay queued until `resume`."""
        self._closing = True
        await self._end_streams()
        self.results.end_delays()

    def resume(self) -> None:
        """Send the queued messages, on a new loop."""
        self._wake_due = self._closing = False
        if self.queue:
            self._wake_soon()

    def forget(self) -> None:
        """Drop everything: in a forked child, the queued calls belong to the parent."""
        self.queue.clear()
        self.results.forget()
        self._connections.forget()
        self._wake_due = self._closing = False

    async def _end_streams(self) -> None:
        await self._connections.close()
        if self.queue:
            self._wake()

    def _wake_soon(self) -> None:
        thread = threading.get_ident()
        self._waking.add(thread)
        self._wake_due = True
        try:
            runtime().soon(self._wake)
        except RuntimeError:  # the loop has just closed for a fork: `resume` follows
            self._wake_due = False
        except BaseException:  # Ctrl-C: the next call wakes the loop
            self._wake_due = False
            raise
        finally:
            self._waking.discard(thread)

    def _wake(self) -> None:
        self._wake_due = False
        if not self._closing:  # else `resume` wakes
            self._connections.wake()

    def _give_up(self, timeout: float) -> NoReturn:
        """Raise the error of a call whose time is up."""
        error = self._connections.failure()
        if error is not None:
            raise error
        cause = self._connections.last_failure()
        reason = "" if cause is None else f" ({cause})"
        raise DeadlineExceededError(
            f"{self._context.spec.name} at {self._context.endpoint}: no answer within {timeout:g} s{reason}: raise "
            "timeout=, or run `midrib doctor`"
        ) from cause


_sessions: weakref.WeakValueDictionary[Hashable, CallSession] = weakref.WeakValueDictionary()
_sessions_lock = threading.RLock()  # a signal handler may call while its thread holds the lock


def session_for(endpoint: Endpoint, spec: StreamSpec, info: BackboneInfo, policy: CallPolicy) -> CallSession:
    """Return the process's session for these arguments, so that all callers of one function share its messages."""
    key = (endpoint, spec, policy)
    with _sessions_lock:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = CallSession(endpoint, spec, info, policy)
        return session

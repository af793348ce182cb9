"""The limits of a connection, and the counters that end an abusive one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

from midrib.server._front.frames import ErrorCode, Http2Error

# Frames without content (settings, pings, empty DATA) that a client may send, beyond a few for each message.
_MAX_IDLE_FRAMES = 2000
_FRAMES_PER_MESSAGE = 32
# A client may cancel many calls at once, but in the long run not more calls than the server answers.
_MIN_RESETS = 2000
_MAX_PING_STRIKES = 2
# The frames of all connections may take this long in one iteration of the event loop. A call that they start runs in
# the next iteration, and usually takes _CALL_S then.
_SHARE_S = 0.006
_CALL_S = 60e-6


@dataclass(frozen=True)
class FrontLimits:
    """The limits of one connection.

    max_message_bytes: the largest message after decompression, in either direction.
    max_metadata_bytes: the largest headers of one call.
    max_streams: concurrent calls.  idle_s: seconds without a call after which the connection is closed.
    age_s: seconds after which the client is asked to open another connection; None: never.
    age_grace_s: the seconds that its calls then have to end.  min_ping_interval_s: the least seconds between two pings.
    small_methods_bytes: the largest message to any method except `data_methods`; None for `max_message_bytes`.
    """

    max_message_bytes: int
    max_metadata_bytes: int
    max_streams: int
    idle_s: float
    age_s: float | None
    age_grace_s: float
    min_ping_interval_s: float
    small_methods_bytes: int | None = None
    data_methods: Sequence[str] = ()

    def message_bytes(self, path: str) -> int:
        """Return the largest message that a client may send to a method."""
        if self.small_methods_bytes is None or path in self.data_methods:
            return self.max_message_bytes
        return self.small_methods_bytes


class AbuseCounter:
    """Counts the frames of one connection that cost the server time and belong to no message.

    now: seconds of a monotonic clock.
    """

    def __init__(self, limits: FrontLimits, now: Callable[[], float]) -> None:
        self._interval_s = limits.min_ping_interval_s
        self._max_resets = max(_MIN_RESETS, 2 * limits.max_streams)
        self._now = now
        self._idle_frames = 0
        self._resets = 0
        self._ping_strikes = 0
        self._last_ping_s: float | None = None

    def progress(self) -> None:
        """Note that a message was received or sent: it allows a few frames without content, and a ping."""
        self._idle_frames = max(0, self._idle_frames - _FRAMES_PER_MESSAGE)
        self._ping_strikes = 0
        self._last_ping_s = None

    def answered(self) -> None:
        """Note that a call was answered: it allows one cancelled call."""
        self._resets = max(0, self._resets - 1)

    def idle_frame(self, *, weight: int = 1) -> None:
        """Count a frame without content, or one that takes the time of `weight` such frames.

        Raises Http2Error if there are too many.
        """
        self._idle_frames += weight
        if self._idle_frames > _MAX_IDLE_FRAMES:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too_many_frames")

    def cancelled(self) -> None:
        """Count a call that its client cancels. Raises Http2Error if there are too many (CVE-2023-44487)."""
        self._resets += 1
        if self._resets > self._max_resets:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too_many_resets")

    def ping(self) -> None:
        """Count a ping. Raises Http2Error if several came too early, with the reason that gRPC's libraries send."""
        self.idle_frame()
        now = self._now()
        if self._last_ping_s is not None and now - self._last_ping_s < self._interval_s:
            self._ping_strikes += 1
            if self._ping_strikes > _MAX_PING_STRIKES:
                raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._last_ping_s = now


class FrameTime:
    """The time that frames, and the messages in them, may take in one iteration of an event loop, for all connections.

    Without this limit, a connection that sends a flood of small frames blocks all others while they are handled.
    """

    _of_loops: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, FrameTime]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._end_s = 0.0  # on time.monotonic, which is finer than uvloop's clock
        self._is_running = False
        self._waiting: deque[Callable[[], None]] = deque()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> FrameTime:
        """Return the object that all connections of an event loop share."""
        shared = cls._of_loops.get(loop)
        if shared is None:
            shared = cls._of_loops[loop] = cls()
        return shared

    def is_left(self) -> bool:
        """Return whether another frame or message may be handled in this iteration."""
        if not self._is_running:
            self._is_running = True
            self._end_s = time.monotonic() + _SHARE_S
            asyncio.get_running_loop().call_soon(self._next_iteration)
            return True
        return time.monotonic() < self._end_s

    def call_started(self) -> None:
        """Reserve the time of a new call."""
        self._end_s -= _CALL_S

    def wait(self, handle: Callable[[], None]) -> None:
        """Call `handle` in a later iteration, after the functions that already wait. It handles at least one frame."""
        self._waiting.append(handle)

    def _next_iteration(self) -> None:
        self._is_running = False
        while self._waiting and self.is_left():
            self._waiting.popleft()()

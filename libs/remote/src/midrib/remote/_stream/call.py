"""Calls, which callers wait for; their parts, which fit a message; and messages, which join parts of several calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Final

import numpy as np

from midrib.remote._items.rows import Rows
from midrib.wire import Array, MidribError

_ABANDONED: Final = CancelledError()  # no caller is left to see it


class StreamedCall:
    """The rows of one call and the features that come back.

    A `concurrent.futures.Future` would cost more than everything else that a small call does.
    done: answered, failed, or abandoned by its caller.
    """

    __slots__ = ("rows", "done", "_outcome", "_wakers", "_missing_rows", "_features", "_lock")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.done = False
        self._outcome: Array | BaseException = _ABANDONED
        self._wakers: list[Callable[[], object]] = []
        self._missing_rows = rows.count
        self._features: Array | None = None
        self._lock = threading.Lock()

    def leave(self) -> None:
        """Abandon the call: its caller stopped waiting. Its rows are not sent any more."""
        self._end(_ABANDONED)

    def when_done(self, waker: Callable[[], object]) -> None:
        """Have waker called once, by the thread that ends this call; at once if the call is done."""
        self._wakers.append(waker)
        self._wake()

    def wait(self, timeout: float) -> bool:
        """Block until the call is done. Return False after timeout seconds."""
        if self.done:
            return True
        latch = threading.Lock()
        latch.acquire()
        self.when_done(latch.release)
        return latch.acquire(timeout=max(0.0, timeout))

    def result(self) -> Array:
        """Return the features of a call that is done, [rows, num_features], writable. Raises its error."""
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def deliver(self, start: int, features: Array) -> None:
        """Accept the features of the rows from start on, [some rows, num_features]; on the loop only."""
        if self.done:
            return
        count = self.rows.count
        if len(features) == count:
            self._end(features.copy())  # they are a read-only view of the message
            return
        if self._features is None:
            self._features = np.empty((count, features.shape[1]), features.dtype)
        self._features[start : start + len(features)] = features
        self._missing_rows -= len(features)
        if self._missing_rows == 0:
            self._end(self._features)

    def fail(self, error: MidribError) -> None:
        """End the call with an error."""
        self._end(error)

    def _end(self, outcome: Array | BaseException) -> None:
        with self._lock:
            self._set(outcome)
        self._wake()

    def _set(self, outcome: Array | BaseException) -> None:
        if not self.done:  # else abandoned, or failed by another part
            self._outcome = outcome
            self.done = True

    def _wake(self) -> None:
        """Call the wakers if the call is done; each is called by the one thread that removes it from the list."""
        while self.done and self._wakers:
            try:
                waker = self._wakers.pop()
            except IndexError:
                return  # another thread got the last one
            waker()


class MessageRows:
    """Rows of one call that fit one message.

    start: the index of its first row in the call.  separate: never joined with other calls, one of which failed it.
    answered: its features came; a hedged part is sent twice, and its second result is dropped.
    """

    __slots__ = ("call", "rows", "start", "separate", "answered", "queued_at")

    def __init__(self, call: StreamedCall, rows: Rows, start: int, queued_at: float) -> None:
        self.call = call
        self.rows = rows
        self.start = start
        self.separate = self.answered = False
        self.queued_at = queued_at

    @property
    def done(self) -> bool:
        """Whether no caller waits for these rows."""
        return self.answered or self.call.done


def split(part: MessageRows, max_rows: int, max_bytes: int) -> Iterator[MessageRows]:
    """Yield a part's rows in parts, halved until each has at most max_rows and max_bytes, or is a single row."""
    count = part.rows.count
    if count <= 1 or (count <= max_rows and part.rows.nbytes <= max_bytes):
        yield part
        return
    for start, stop in ((0, count // 2), (count // 2, count)):
        half = MessageRows(part.call, part.rows.cut(start, stop), part.start + start, part.queued_at)
        half.separate = part.separate
        yield from split(half, max_rows, max_bytes)


@dataclass
class Message:
    """Parts that travel as one item.

    size, reply_size: the bytes of the item and of its result.  hedged: this is the copy that is sent to a
    second server.  copied: such a copy of this message was sent.  shared: the rows travel through shared memory.
    """

    parts: list[MessageRows]
    sent_at: float = 0.0
    encode_s: float = 0.0
    size: int = 0
    reply_size: int = 0
    hedged: bool = False
    copied: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        self.rows = sum(part.rows.count for part in self.parts)

    @property
    def input_bytes(self) -> int:
        """The bytes of all rows."""
        return sum(part.rows.nbytes for part in self.parts)

    def encode(self, item_id: int) -> bytes:
        """Return the bytes of the item."""
        first, *following = (part.rows for part in self.parts)
        return first.encode(item_id, following)

    def deliver(self, features: Array) -> None:
        """Hand each part the features [rows, num_features] of its rows."""
        start = 0
        for part in self.parts:
            stop = start + part.rows.count
            if not part.answered:
                part.answered = True
                part.call.deliver(part.start, features[start:stop])
            start = stop

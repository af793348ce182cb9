"""What callers wait for: calls, cut into parts that travel in messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Final

import numpy as np

from midrib.remote._items.rows import Rows
from midrib.wire import Array, MidribError

_GIVEN_UP: Final = CancelledError()  # nobody is left to hear it


class Call:
    """The rows of one call and the features that come back.

    Not a `concurrent.futures.Future`, which costs more than everything else that a small call does.
    done: answered, failed, or given up.
    """

    __slots__ = ("rows", "done", "_outcome", "_wakers", "_left", "_features", "_lock")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.done = False
        self._outcome: Array | BaseException = _GIVEN_UP
        self._wakers: list[Callable[[], object]] = []
        self._left = rows.count
        self._features: Array | None = None
        self._lock = threading.Lock()

    def leave(self) -> None:
        """Stop waiting: the call is dropped, whether it was sent or not."""
        self._end(_GIVEN_UP)

    def when_done(self, waker: Callable[[], object]) -> None:
        """Have waker called once, by the thread that ends this call; at once where it is over."""
        self._wakers.append(waker)
        self._wake()

    def wait(self, timeout: float) -> bool:
        """Block until it is over; False after so many seconds."""
        if self.done:
            return True
        latch = threading.Lock()
        latch.acquire()
        self.when_done(latch.release)
        return latch.acquire(timeout=max(0.0, timeout))

    def result(self) -> Array:
        """The features, this caller's to write to, of a call that is done. Raises what it failed with."""
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def deliver(self, start: int, features: Array) -> None:
        """Take the features of the rows from start on; on the loop only."""
        if self.done:
            return
        count = self.rows.count
        if len(features) == count:
            self._end(features.copy())  # what came is a view of the message, which cannot be written to
            return
        if self._features is None:
            self._features = np.empty((count, features.shape[1]), features.dtype)
        self._features[start : start + len(features)] = features
        self._left -= len(features)
        if self._left == 0:
            self._end(self._features)

    def fail(self, error: MidribError) -> None:
        """End with an error, for every caller that waits."""
        self._end(error)

    def _end(self, outcome: Array | BaseException) -> None:
        with self._lock:
            self._set(outcome)
        self._wake()

    def _set(self, outcome: Array | BaseException) -> None:
        if not self.done:  # given up, or failed by another part
            self._outcome = outcome
            self.done = True

    def _wake(self) -> None:
        """Call the wakers, once it is over; each goes to the one thread that gets it from the list."""
        while self.done and self._wakers:
            try:
                waker = self._wakers.pop()
            except IndexError:
                return  # another thread got the last one
            waker()


class Part:
    """Rows of one call that fit one message. answered: they came back; a hedged part is asked twice."""

    __slots__ = ("call", "rows", "start", "alone", "answered", "queued_at")

    def __init__(self, call: Call, rows: Rows, start: int, queued_at: float) -> None:
        self.call = call
        self.rows = rows
        self.start = start
        self.alone = self.answered = False
        self.queued_at = queued_at

    @property
    def done(self) -> bool:
        """Nobody waits for these rows any more."""
        return self.answered or self.call.done


def cut(call: Call, max_rows: int, max_bytes: int, now: float) -> Iterator[Part]:
    """A call's parts: each at most so many rows and bytes, but at least one row; halved until they fit."""

    def halve(rows: Rows, start: int) -> Iterator[Part]:
        count = rows.count
        if count <= 1 or (count <= max_rows and rows.nbytes <= max_bytes):
            yield Part(call, rows, start, now)
            return
        half = count // 2
        yield from halve(rows.cut(0, half), start)
        yield from halve(rows.cut(half, count), start + half)

    yield from halve(call.rows, 0)


@dataclass
class Message:
    """Parts that travel as one item.

    size, reply_size: its bytes on the wire, and its result's.  hedged: whether another server has them too.
    """

    parts: list[Part]
    sent_at: float = 0.0
    encode_s: float = 0.0
    size: int = 0
    reply_size: int = 0
    hedged: bool = False

    def __post_init__(self) -> None:
        self.rows = sum(part.rows.count for part in self.parts)

    def encode(self, item_id: int) -> bytes:
        """The bytes of the item."""
        first, *others = (part.rows for part in self.parts)
        return first.encode(item_id, others)

    def deliver(self, features: Array) -> None:
        """Hand each part the features of its rows."""
        at = 0
        for part in self.parts:
            count = part.rows.count
            if not part.answered:
                part.answered = True
                part.call.deliver(part.start, features[at : at + count])
            at += count

"""What callers wait for: calls, cut into parts that travel in messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass

import numpy as np

from midrib.remote._rows import Rows
from midrib.wire import Array, MidribError


class Call:
    """The rows of one call and the features that come back; equal calls in flight may share it."""

    __slots__ = ("future", "rows", "_left", "_features", "_waiters", "_sharers", "_lock")

    def __init__(self, rows: Rows) -> None:
        self.future: Future[Array] = Future()
        self.rows = rows
        self._left = len(rows)
        self._features: Array | None = None
        self._waiters = self._sharers = 1
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        """Answered, failed, or given up by everyone."""
        return self.future.done()

    def join(self) -> bool:
        """Wait for this call as one more caller; False where it is over already."""
        with self._lock:
            if self.future.done():
                return False
            self._waiters += 1
            self._sharers += 1
            return True

    @property
    def shared(self) -> bool:
        """Whether more than one caller got, or will get, these very features."""
        return self._sharers > 1

    def leave(self) -> None:
        """Give up waiting; with the last caller the call is dropped, sent or not."""
        with self._lock:
            self._waiters -= 1
            if self._waiters == 0:
                self.future.cancel()

    def deliver(self, start: int, features: Array) -> None:
        """Take the features of the rows from start on; on the loop only."""
        if self.future.done():
            return
        if len(features) == len(self.rows):
            self._settle(features.copy())  # what came is a view of the message, which cannot be written to
            return
        if self._features is None:
            self._features = np.empty((len(self.rows), features.shape[1]), features.dtype)
        self._features[start : start + len(features)] = features
        self._left -= len(features)
        if self._left == 0:
            self._settle(self._features)

    def fail(self, error: MidribError) -> None:
        """End with an error, for every caller that waits."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return  # given up, or failed by another part

    def _settle(self, features: Array) -> None:
        try:
            self.future.set_result(features)
        except InvalidStateError:
            return


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
        count = len(rows)
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
        self.rows = sum(len(part.rows) for part in self.parts)

    def encode(self, item_id: int) -> bytes:
        """The bytes of the item."""
        first, *others = (part.rows for part in self.parts)
        return first.encode(item_id, others)

    def deliver(self, features: Array) -> None:
        """Hand each part the features of its rows."""
        at = 0
        for part in self.parts:
            count = len(part.rows)
            if not part.answered:
                part.answered = True
                part.call.deliver(part.start, features[at : at + count])
            at += count

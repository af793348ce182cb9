"""Calls, which callers wait for; their parts, which fit a message; and messages, which join parts of several calls."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np

from midrib.remote._connect.pending_result import PendingResult
from midrib.remote._items.rows import Rows
from midrib.wire import Array, MidribError


class StreamedCall(PendingResult[Array]):
    """The rows of one call and the features that come back, [rows, num_features], writable.

    done: answered, failed, or abandoned by its caller; its rows are not sent any more.
    """

    __slots__ = ("rows", "_missing_rows", "_features")

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self._missing_rows = rows.count
        self._features: Array | None = None

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
        """End the call with a copy of an error, because each raised error keeps the frames that it passed."""
        self._end(copy(error))


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

    rows, input_bytes: the number of rows of all parts, and their bytes.
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
        self.input_bytes = sum(part.rows.nbytes for part in self.parts)

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

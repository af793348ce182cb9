"""The parts of calls that wait to be sent, oldest first; small ones are joined into messages."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._stream.call import Message, MessageRows, StreamedCall, split
from midrib.wire import LimitExceededError

# Large calls are cut into parts of this size, so that the server computes one while it receives the next.
_PART_BYTES: Final = 2 << 20
# Calls are joined until a message has half of this size: the cost of a message is then small beside that of its bytes.
_JOIN_BYTES: Final = 1 << 20
_DEFAULT_MESSAGE_BYTES: Final = 4 << 20
_HEAD_BYTES: Final = 256


class Queue:
    """Parts that fit the server's limits for one message. `add` and `clear` are for any thread."""

    def __init__(self, info: BackboneInfo) -> None:
        self._name = info.name
        self._max_bytes = (info.max_message_bytes or _DEFAULT_MESSAGE_BYTES) - _HEAD_BYTES
        self._part_bytes = min(_PART_BYTES, self._max_bytes)
        self._join_bytes = min(_JOIN_BYTES, self._max_bytes)
        # The answer must fit a message as well: at most 8 bytes a feature.
        fitting = max(1, self._max_bytes // (8 * max(1, info.num_features)))
        self._max_rows = min(info.max_rows or fitting, fitting)
        self._parts: deque[MessageRows] = deque()

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, call: StreamedCall) -> None:
        """Queue a call, in parts that fit a message. Raises LimitExceededError if a single row does not."""
        rows = call.rows
        part = MessageRows(call, rows, 0, time.monotonic())
        if rows.count <= self._max_rows and rows.nbytes <= self._part_bytes:  # nearly all calls do
            self._parts.append(part)
            return
        parts = list(split(part, self._max_rows, self._part_bytes))
        for part in parts:
            if part.rows.nbytes > self._max_bytes:
                raise LimitExceededError(
                    f"one row takes {part.rows.nbytes} bytes, {self._name} takes messages of {self._max_bytes}: "
                    "make it smaller, or raise the server's max_message_bytes"
                )
        self._parts.extend(parts)

    def put_first(self, parts: Iterable[MessageRows]) -> None:
        """Queue parts again that were taken before, in this order and before all others."""
        fitting = [smaller for part in parts for smaller in split(part, self._max_rows, self._part_bytes)]
        self._parts.extendleft(reversed(fitting))

    def limit_bytes(self, limit: float) -> None:
        """Cut and join calls to at most this many bytes from now on."""
        self._part_bytes = min(self._part_bytes, int(limit))
        self._join_bytes = min(self._join_bytes, int(limit))

    def allow_bytes(self, limit: int, *, max_rows: int) -> None:
        """Cut calls to at least this many bytes from now on, within the limit of a message, and to at most max_rows."""
        self._part_bytes = max(self._part_bytes, min(limit, self._max_bytes))
        self._max_rows = min(self._max_rows, max_rows)

    def clear(self) -> None:
        """Drop everything."""
        self._parts = deque()

    def take(self, messages: int = 1) -> Message | None:
        """Return the next message: the oldest part that a caller waits for, joined with small ones like it.

        messages: among how many messages, this one included, the queue is divided.
        """
        most = math.ceil(len(self._parts) / messages)
        first = self.take_one()
        if first is None:
            return None
        parts, count, size = [first], first.rows.count, first.rows.nbytes
        key, queued = first.rows.key, self._parts
        while len(parts) < most and not first.separate and size <= self._join_bytes // 2 and queued:
            other = queued[0]
            rows = other.rows
            count += rows.count
            size += rows.nbytes
            if other.separate or rows.key != key or count > self._max_rows or size > self._join_bytes:
                break
            queued.popleft()
            if not other.done:
                parts.append(other)
        return Message(parts)

    def take_one(self) -> MessageRows | None:
        """Return the oldest part that a caller waits for; None if there is none."""
        while self._parts:
            part = self._parts.popleft()
            if not part.done:
                return part
        return None

    def busy(self) -> bool:
        """Return whether a caller waits for a part that is queued."""
        return any(not part.done for part in list(self._parts))

    def backlog(self) -> bool:
        """Return whether more is queued than one message joins, so that waiting for further calls gains nothing."""
        if not self._parts:
            return False
        rows = self._parts[0].rows
        waiting = len(self._parts)
        return rows.nbytes * waiting > self._join_bytes // 2 or rows.count * waiting > self._max_rows

"""What waits to be sent: parts of calls, oldest first, which join into messages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._stream.call import Call, Message, Part, cut
from midrib.wire import LimitExceededError

# Large calls travel in pieces, so that the server computes one while the next is on its way.
_PART_BYTES: Final = 2 << 20
# Calls join until a message has half of this: from there on its own cost is small beside that of its bytes.
_JOIN_BYTES: Final = 1 << 20
_DEFAULT_MESSAGE_BYTES: Final = 4 << 20
_HEAD_BYTES: Final = 256


class Queue:
    """Parts within what the server of a backbone takes. `add` is for any thread, the rest for the loop's."""

    def __init__(self, info: BackboneInfo) -> None:
        self._name = info.name
        self._max_bytes = (info.max_message_bytes or _DEFAULT_MESSAGE_BYTES) - _HEAD_BYTES
        self._part_bytes, self._join_bytes = (min(most, self._max_bytes) for most in (_PART_BYTES, _JOIN_BYTES))
        # The answer must fit a message as well: at most 8 bytes a feature.
        fitting = max(1, self._max_bytes // (8 * max(1, info.num_features)))
        self._max_rows = min(info.max_rows or fitting, fitting)
        self._parts: deque[Part] = deque()

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, call: Call) -> None:
        """Queue a call, in parts that fit. Raises LimitExceededError where a single row does not."""
        rows, now = call.rows, time.monotonic()
        if rows.count <= self._max_rows and rows.nbytes <= self._part_bytes:  # as nearly all do
            self._parts.append(Part(call, rows, 0, now))
            return
        parts = list(cut(call, self._max_rows, self._part_bytes, now))
        for part in parts:
            if part.rows.nbytes > self._max_bytes:
                raise LimitExceededError(
                    f"one row takes {part.rows.nbytes} bytes, {self._name} takes messages of {self._max_bytes}: "
                    "make it smaller, or raise the server's max_message_bytes"
                )
        self._parts.extend(parts)

    def put_first(self, parts: Iterable[Part]) -> None:
        """Queue again what was taken, before all else and in this order."""
        self._parts.extendleft(reversed(list(parts)))

    def clear(self) -> None:
        """Forget everything; from any thread."""
        self._parts = deque()

    def take(self) -> Message | None:
        """The next message: the oldest part that someone still waits for, and small ones like it."""
        first = self.take_one()
        if first is None:
            return None
        parts, count, size = [first], first.rows.count, first.rows.nbytes
        key, left = first.rows.key, self._parts
        while not first.alone and size <= self._join_bytes // 2 and left:
            other = left[0]
            rows = other.rows
            count += rows.count
            size += rows.nbytes
            if other.alone or rows.key != key or count > self._max_rows or size > self._join_bytes:
                break
            left.popleft()
            if not other.done:
                parts.append(other)
        return Message(parts)

    def take_one(self) -> Part | None:
        """The oldest part that someone still waits for."""
        while self._parts:
            part = self._parts.popleft()
            if not part.done:
                return part
        return None

    def busy(self) -> bool:
        """Whether anyone waits for something that is queued."""
        return any(not part.done for part in list(self._parts))

    def backlog(self) -> bool:
        """Whether more is queued than joins into one message, so that waiting for company gains nothing."""
        if not self._parts:
            return False
        rows = self._parts[0].rows
        waiting = len(self._parts)
        return rows.nbytes * waiting > self._join_bytes // 2 or rows.count * waiting > self._max_rows

"""The outcome of each message, given to the calls that wait for it: rows, an error, or another attempt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from midrib.remote._connect.retries import retriable, wait_s
from midrib.remote._items.codec import Result
from midrib.remote._stream.call import Message, MessageRows
from midrib.remote._stream.queue import Queue
from midrib.remote._stream.timing import TimeTotals
from midrib.wire import InternalError, MidribError, is_floating


class Results:
    """Settles the messages of a session. On the event loop only.

    width: the number of features of a row.  wake: called after parts were queued again, to have them sent.
    """

    def __init__(self, name: str, width: int, queue: Queue, wake: Callable[[], None]) -> None:
        self.totals = TimeTotals()
        self._name = name
        self._width = width
        self._queue = queue
        self._wake = wake
        self._delayed: list[MessageRows] = []

    def settle(self, message: Message, result: Result) -> None:
        """Deliver a message's rows to its calls, fail them, or queue them again."""
        outcome = result.outcome
        if isinstance(outcome, MidribError):
            self._fail(message.parts, outcome)
        elif outcome.shape != (message.rows, self._width) or not is_floating(outcome.dtype):
            text = (
                f"{self._name} answered {message.rows} rows with {outcome.dtype} of shape {list(outcome.shape)}, "
                f"expected floating-point numbers of shape {[message.rows, self._width]}: this is a fault of the server"
            )
            self._fail(message.parts, InternalError(text))
        else:
            message.deliver(outcome)
            self.totals.add(message, time.monotonic(), result.timing)

    def requeue(self, messages: list[Message]) -> None:
        """Queue the messages of a broken stream again, before everything else."""
        self._queue_first([part for message in messages for part in message.parts if not part.done])

    def fail_queued(self, error: MidribError) -> None:
        """Fail every call that is queued."""
        while (part := self._queue.take_one()) is not None:
            part.call.fail(error)

    def end_delays(self) -> None:
        """Queue the parts that wait for their next attempt: the loop with their timers is about to close."""
        self._queue.put_first(self._delayed)
        self._delayed = []

    def forget(self) -> None:
        """Drop the parts that wait for their next attempt: in a forked child, they belong to the parent."""
        self._delayed = []

    def _fail(self, parts: list[MessageRows], error: MidribError) -> None:
        parts = [part for part in parts if not part.done]
        if retriable(error):
            self._delayed.extend(parts)
            asyncio.get_running_loop().call_later(wait_s(error), self._retry, parts)
        elif len(parts) == 1:
            parts[0].call.fail(error)
        else:
            for part in parts:  # a single one of them may have caused the error
                part.separate = True
            self._queue_first(parts)

    def _retry(self, parts: list[MessageRows]) -> None:
        delayed = [part for part in parts if part in self._delayed]  # empty after end_delays
        for part in delayed:
            self._delayed.remove(part)
        self._queue_first(delayed)

    def _queue_first(self, parts: list[MessageRows]) -> None:
        if parts:
            self._queue.put_first(parts)
            self._wake()

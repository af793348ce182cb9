"""Writes the answers of a stream, as they are ready or in order, and notices if the client does not read them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from midrib.server._grpc.context import Context
from midrib.wire import UnavailableError


class StreamAnswer:
    """A message that a stream will write; `message` is None until it is ready.

    on_written: called once it is written.
    """

    __slots__ = ("message", "on_written")

    def __init__(self, on_written: Callable[[], None]) -> None:
        self.message: Any = None
        self.on_written = on_written


class StreamWriter:
    """Writes the answers of one stream.

    max_unread_s: how long the client may leave a message unread.
    in_order: whether answers are written in the order of `expect`, or as soon as they are ready.
    """

    def __init__(self, context: Context, max_unread_s: float, *, in_order: bool) -> None:
        self._context = context
        self._max_unread_s = max_unread_s
        self._in_order = in_order
        self._answers: deque[StreamAnswer] = deque()
        self._expected = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._writing_since: float | None = None

    def expect(self, on_written: Callable[[], None]) -> StreamAnswer:
        """Return an answer that `put` will complete; in order, it is written before those expected later."""
        answer = StreamAnswer(on_written)
        self._expected += 1
        if self._in_order:
            self._answers.append(answer)
        return answer

    def put(self, answer: StreamAnswer, message: Any) -> None:
        """Complete an answer."""
        answer.message = message
        if not self._in_order:
            self._answers.append(answer)
        self._changed.set()

    def close(self) -> None:
        """Let `run` return once all expected answers are written."""
        self._closed = True
        self._changed.set()

    def abandon(self) -> None:
        """Drop the answers that are not written: they refer to their stream, which refers to this object."""
        self._answers.clear()

    async def run(self) -> None:
        """Write answers until `close`; raises the errors of writing."""
        while self._expected or not self._closed:
            if not self._answers or self._answers[0].message is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            answer = self._answers.popleft()
            await self._write(answer.message)
            answer.on_written()
            self._expected -= 1
            del answer  # while the client is silent, nothing keeps the last message

    async def _write(self, message: Any) -> None:
        """Send one message; returns once HTTP/2's flow control lets it go."""
        self._writing_since = time.monotonic()
        await self._context.write(message)
        self._writing_since = None

    async def fail_if_unread(self) -> NoReturn:
        """Raise UnavailableError once a message was unread for `max_unread_s`."""
        seconds = self._max_unread_s
        while self._writing_since is None or time.monotonic() - self._writing_since < seconds:
            await asyncio.sleep(seconds / 4)
        raise UnavailableError(
            f"no result of this stream was read for {seconds:g} s: read while you send, or open another stream",
            reason="NOT_READ",
        )

"""The engine's end of a call that a front process carries."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from midrib.server._front.headers import RequestHead
from midrib.server._front.messages import MessageError
from midrib.server._front.processes.link import Link
from midrib.server._front.processes.records import FromEngine, encode_count
from midrib.server._large import Buffer

# The bytes of a call's answers that may wait for flow control in the front process; `write` waits if there are more.
_UNCOUNTED_BYTES = 4096


class RemoteStream:
    """The messages of one call in both directions. Implements `CallStream`.

    on_lost: called when the client cancels the call or leaves, or the front process ends.
    """

    __slots__ = (
        "_arrived",
        "_client_ended",
        "_fault",
        "_finishes",
        "_link",
        "_messages",
        "_number",
        "_sent",
        "_unsent",
        "_unsent_bytes",
        "_waiters",
        "head",
        "is_closed",
        "on_lost",
    )

    def __init__(self, number: int, head: RequestHead, link: Link) -> None:
        self.head = head
        self.is_closed = False
        self.on_lost: Callable[[], None] | None = None
        self._number = number
        self._link = link
        self._messages: deque[Buffer] = deque()
        self._arrived = 0
        self._fault: MessageError | None = None
        self._client_ended = False
        self._unsent: deque[int] = deque()  # the sizes of messages that the front process has not sent yet
        self._unsent_bytes = 0
        self._sent = 0
        self._finishes = False
        self._waiters: list[asyncio.Future[None]] = []

    # From the front process

    def receive(self, message: Buffer) -> None:
        """Take the next message of the client."""
        self._arrived += 1
        self._messages.append(message)
        self._wake()

    def refuse(self, error: MessageError) -> None:
        """Note that the next message breaks a limit."""
        self._fault = error
        self._wake()

    def receive_end(self) -> None:
        """Note that the client has sent all."""
        self._client_ended = True
        self._wake()

    def sent(self, count: int) -> None:
        """Note the number of messages that flow control has let go."""
        while self._sent < count and self._unsent:
            self._sent += 1
            self._unsent_bytes -= self._unsent.popleft()
        self._wake()

    def finished(self) -> None:
        """Note that the trailers are sent."""
        self.is_closed = True
        self._wake()

    def lost(self) -> None:
        """End the stream: the client or the front process is gone."""
        if self.is_closed:
            return
        self.is_closed = True
        self._wake()
        if self.on_lost is not None:
            self.on_lost()

    # To the call

    def read_ahead(self) -> None:
        """Let the client send further messages while one is handled."""
        self._link.send(FromEngine.READ_AHEAD, self._number)

    async def read(self) -> Buffer | None:
        """Return the next message; None if the client has sent all. Raises MessageError if it is refused."""
        if not self._messages and self._fault is None and not self._client_ended:
            self._link.send(FromEngine.READ, self._number, encode_count(self._arrived))
        while not self._messages:
            if self._fault is not None:
                raise self._fault
            if self._client_ended:
                return None
            await self._change()
        return self._messages.popleft()

    async def write(self, message: Buffer) -> None:
        """Send a message; returns once flow control has let it go. Does nothing once the stream is closed.

        A few bytes may wait in the front process.
        """
        if self.is_closed:
            return
        self._link.send(FromEngine.MESSAGE, self._number, message)
        self._unsent.append(len(message))
        self._unsent_bytes += len(message)
        while self._unsent_bytes > _UNCOUNTED_BYTES and not self.is_closed:
            await self._change()

    async def finish(self, trailers: bytes) -> None:
        """End the stream with trailers after all messages; returns once they are sent, or the stream is closed."""
        if self.is_closed:
            return
        self._finishes = True
        self._link.send(FromEngine.FINISH, self._number, trailers)
        while not self.is_closed:
            await self._change()

    def end(self, trailers: bytes) -> None:
        """End the stream with trailers now. Messages that wait for flow control are dropped."""
        if self.is_closed:
            return
        self.is_closed = True
        self._link.send(FromEngine.END, self._number, trailers)
        self._wake()

    def close_connection(self) -> None:
        """Close the connection of the stream without its last bytes."""
        self._link.send(FromEngine.ABORT, self._number)

    # To the server

    def handler_ended(self) -> None:
        """Let the front process forget the call."""
        if not self._finishes:
            self._link.send(FromEngine.HANDLER_ENDED, self._number)

    async def _change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

"""The end of a call in the front process: its HTTP/2 stream, joined to the engine by a link."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from midrib.server._front.messages import MessageError
from midrib.server._front.processes.link import Link
from midrib.server._front.processes.records import FromFront, encode_count, encode_open, encode_refusal
from midrib.server._front.stream import Http2Stream
from midrib.server._large import Buffer


class ForwardedCall:
    """One call.

    Complete messages go to the engine at once. The windows of HTTP/2 grow only while the engine reads, so that it
    never holds more bytes of a call than a server in one process would.
    ended: called once the handler of the call has ended.
    """

    __slots__ = (
        "_answers",
        "_forwarded",
        "_has_ended",
        "_is_read",
        "_link",
        "_number",
        "_sent",
        "_task",
        "_trailers",
        "_unpacking",
        "ended",
        "stream",
    )

    def __init__(self, number: int, stream: Http2Stream, link: Link, ended: Callable[[], None]) -> None:
        self.stream = stream
        self.ended = ended
        self._number = number
        self._link = link
        self._forwarded = 0  # messages of the client
        self._is_read = False
        self._has_ended = False
        self._unpacking: asyncio.Task[None] | None = None
        self._answers: deque[Buffer] = deque()
        self._sent = 0  # messages of the server
        self._trailers: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self, peer: str) -> None:
        """Begin the call in the engine. peer: gRPC's name of the client's address."""
        self._link.send(FromFront.OPEN, self._number, encode_open(peer, self.stream.head))
        self.stream.on_lost = self._lost
        self.stream.forward_to(self._forward)

    # From the client

    def _forward(self) -> None:
        """Forward the bytes that have arrived."""
        if self._unpacking is not None or self._has_ended:
            return
        stream = self.stream
        while not stream.assembler.missing:
            if stream.assembler.is_packed:
                if self._is_read:  # a few bytes may become a large message: only if there is room for one
                    self._unpacking = asyncio.get_running_loop().create_task(self._forward_packed())
                return
            try:
                self._send(stream.assembler.take_as_sent())
            except MessageError as error:
                self._refuse(error)
                return
        if stream.client_ended:
            self._has_ended = True
            self._link.send(FromFront.HALF_CLOSED, self._number)
        elif self._is_read:
            stream.grant()

    def _send(self, message: Buffer) -> None:
        self._forwarded += 1
        self._is_read = False
        self.stream.progress()
        self._link.send(FromFront.MESSAGE, self._number, message)

    def _refuse(self, error: MessageError) -> None:
        self._has_ended = True
        self._link.send(FromFront.REFUSED, self._number, encode_refusal(error))

    async def _forward_packed(self) -> None:
        try:
            self._send(await self.stream.assembler.take())
        except MessageError as error:
            self._refuse(error)
        self._unpacking = None
        self._forward()

    def _lost(self) -> None:
        self._link.send(FromFront.LOST, self._number)

    # From the engine

    def read(self, arrived: int) -> None:
        """Receive the next message, of any size. arrived: the number that the engine had when it sent this request."""
        if arrived == self._forwarded:
            self._is_read = True
            self._forward()

    def write(self, message: Buffer) -> None:
        """Send a message to the client, as flow control lets it go."""
        if self.stream.is_closed:
            return
        if self._task is None and self.stream.write_at_once(message):
            self._sent += 1
            return
        self._answers.append(message)
        self._continue()

    def finish(self, trailers: bytes) -> None:
        """End the call after all messages."""
        self._trailers = trailers
        if self._task is None and self.stream.can_end():
            self.stream.end(trailers)
            self._finished()
        else:
            self._continue()

    def acknowledge(self) -> None:
        """Tell the engine how many messages are sent."""
        if self._trailers is None and not self.stream.is_closed:
            self._link.send(FromFront.SENT, self._number, encode_count(self._sent))

    def _continue(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_waiting())

    async def _write_waiting(self) -> None:
        """Send the messages and the trailers that wait for flow control."""
        while self._answers:
            await self.stream.write(self._answers.popleft())
            self._sent += 1
            self.acknowledge()
        if self._trailers is not None:
            await self.stream.finish(self._trailers)
            self._finished()
        self._task = None

    def _finished(self) -> None:
        self._link.send(FromFront.FINISHED, self._number)
        self.ended()

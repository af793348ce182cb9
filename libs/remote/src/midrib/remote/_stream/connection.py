"""One stream to one address: opened when there is work, opened again when it breaks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

import grpc

from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.dns import resolve_all
from midrib.remote._connect.event_loop import current_runtime
from midrib.remote._connect.retries import attempts, retriable
from midrib.remote._connect.tcp_progress import exchanged_bytes
from midrib.remote._connect.transport import Stream
from midrib.remote._items.codec import Result, Timing, decode_result
from midrib.remote._stream.call import Message
from midrib.remote._stream.queue import Queue
from midrib.remote._stream.window import Window
from midrib.v1 import embedding_pb2
from midrib.wire import (
    InternalError,
    MidribError,
    RevisionMismatchError,
    StreamProtocolError,
    UnavailableError,
)

_log = logging.getLogger("midrib.remote")
# How long an address that refused for good (another revision, no token) is left out.
_REFUSED_S: Final = 5.0
# A stream that carries nothing for so long is closed; the next call opens another.
_IDLE_S: Final = 60.0
_SLOW_BYTES_PER_S: Final = 100e3


class Source(Protocol):
    """Where a connection's messages come from and its results go."""

    opening: bytes
    revision: str
    endpoint: Endpoint
    stall_s: float
    queue: Queue

    def on_result(self, message: Message, result: Result) -> None: ...
    def add_machines(self, address: str, count: int) -> None: ...
    def on_sent(self, connection: Connection, message: Message) -> None: ...
    def requeue(self, messages: list[Message]) -> None: ...
    def on_trouble(self) -> None: ...
    def on_failure(self, connection: Connection, error: MidribError) -> None: ...


class Connection:
    """Sends a source's messages to one address and brings back the results.

    machine_index: which of the machines behind the address's name, where it has several.
    """

    def __init__(self, source: Source, address: str, window: int | None, machine_index: int = 0) -> None:
        self.address = address
        self.machine_index = machine_index
        self.window = Window(window)
        self.failure: MidribError | None = None
        self._source = source
        self._in_flight: dict[int, Message] = {}
        self._extra: deque[Message] = deque()
        self._target: tuple[str, Endpoint, str | None] = (address, source.endpoint, None)
        self._channel: grpc.aio.Channel | None = None
        self._opening = False
        self._exchanged = 0
        self._next_id = 1
        self._idle: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._refused_until = 0.0
        self._heard_at = 0.0
        self._progress = False
        self._leaving = False

    @property
    def alive(self) -> bool:
        """Whether it is open, opening, or waiting to open again."""
        return self._task is not None and not self._task.done()

    def wake(self, *, even_if_refused: bool = False) -> bool:
        """There is work: open if closed. False while the address is left out. On the loop only."""
        if not self.alive:
            if time.monotonic() < self._refused_until and not even_if_refused:
                return False
            self._task = asyncio.get_running_loop().create_task(self._run())
        self._rouse()
        return True

    @property
    def busy(self) -> int:
        """How many items it has in flight."""
        return len(self._in_flight)

    def hedge(self, message: Message) -> None:
        """Send what another connection has sent and got no answer to, before all else. On the loop only."""
        self._extra.append(message)
        self._rouse()

    async def close(self) -> None:
        """End the stream; what is unanswered goes back to the source."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        """Attend to the source until it has nothing left; each stream that worked starts the back-off afresh."""
        try:
            while True:
                async for attempt in attempts(self._worthwhile):
                    with attempt:
                        await self._attend()
                if not self._source.queue.busy():
                    return
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            if not isinstance(error, MidribError):
                error = InternalError(f"the stream to {self.address} failed in this client: {error!r}")
            self.failure = error
            if not retriable(error):
                self._refused_until = time.monotonic() + _REFUSED_S
            # Its own task is not done yet: let the source see this connection as closed.
            self._task = None
            self._source.on_failure(self, error)

    def _worthwhile(self, error: BaseException) -> bool:
        if not isinstance(error, MidribError) or not retriable(error) or not self._source.queue.busy():
            return False
        self.failure = error
        if error.reason == "CONNECT_TIMEOUT" and self._channel is not None:
            current_runtime().allow_longer_connect(self._channel)
        self._source.on_trouble()
        return True

    async def _attend(self) -> None:
        """One stream from its opening to its end. Raises what ended it, unless results had come."""
        self._progress = self._leaving = False
        await self._find()
        self._channel = current_runtime().channel(*self._target)
        stream = Stream(self._channel, self._target[0], self._source.endpoint)
        writer: asyncio.Task[None] | None = None
        try:
            self._heard_at, self._exchanged, self._opening = time.monotonic(), 0, True
            self._watch(stream)
            await self._open(stream)
            self._opening = False
            writer = asyncio.create_task(self._write(stream))
            await self._read(stream)
            error = await stream.error()
            if not (self._progress or self._leaving):
                raise error
            self.failure = error
        finally:
            if self._watcher is not None:
                self._watcher.cancel()
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            stream.cancel()
            left, self._in_flight = [*self._in_flight.values(), *self._extra], {}
            self._extra.clear()
            self._source.requeue(left)

    async def _find(self) -> None:
        """Choose the machine: the name's own, or this machine among several, each of which has a connection."""
        found = await resolve_all(self.address)
        if not found:
            self._target = (self.address, self._source.endpoint, None)
            return
        host = self.address.rpartition(":")[0]
        self._target = (found[self.machine_index % len(found)], self._source.endpoint, host)
        self._source.add_machines(self.address, len(found))

    async def _open(self, stream: Stream) -> None:
        await stream.write(self._source.opening)
        first = await stream.read()
        if first is None:
            raise await stream.error()
        response = embedding_pb2.EmbedStreamResponse.FromString(first)
        if response.HasField("go_away"):
            raise UnavailableError(f"{self.address} is draining: {response.go_away.reason}", reason="DRAINING")
        if not response.HasField("opened"):
            raise StreamProtocolError(f"{self.address} answered Open with something else: is it a Midrib server?")
        revision = response.opened.revision
        if revision != self._source.revision:
            raise RevisionMismatchError(
                f"{self.address} serves revision {revision[:12]}, expected {self._source.revision[:12]}: "
                "serve that one, or build the client again and train the head on the new one"
            )
        self.failure = None
        self._heard_at = time.monotonic()
        self.window.allow(response.opened.limits.max_stream_items)

    async def _write(self, stream: Stream) -> None:
        while True:
            for message in self._messages():
                item_id = self._next_id
                self._next_id += 1
                began = time.monotonic()
                data = self._encoded(message, item_id)
                if data is None:
                    continue
                message.sent_at = time.monotonic()
                message.encode_s = message.sent_at - began
                message.size = len(data)
                self._in_flight[item_id] = message
                if not await stream.write(data):
                    return  # the reader hears why
                self._source.on_sent(self, message)
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def _encoded(self, message: Message, item_id: int) -> bytes | None:
        """Return the bytes of an item; None if it cannot be encoded, which fails its own calls only."""
        try:
            return message.encode(item_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, only these calls may fail
            _log.exception("could not encode %d rows for %s", message.rows, self.address)
            failure = InternalError(f"the rows could not be encoded: {error!r}: a fault of this client")
            self._source.on_result(message, Result(item_id, failure, Timing()))
            return None

    def _rouse(self) -> None:
        """Have the writer look for messages, where it has none."""
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _messages(self) -> Iterator[Message]:
        """Messages while there is room: a full window, or a few small ones, which gain by waiting for company."""
        while not self._leaving:
            if self._extra:
                yield self._extra.popleft()
                continue
            room = self.window.room(len(self._in_flight), backlog=self._source.queue.backlog())
            message = self._source.queue.take() if room else None
            if message is None:
                return
            yield message

    async def _read(self, stream: Stream) -> None:
        while (data := await stream.read()) is not None:
            self._heard_at = time.monotonic()
            result = decode_result(data)
            if result is not None:
                self._settle(result, len(data))
            elif embedding_pb2.EmbedStreamResponse.FromString(data).HasField("go_away"):
                self._leaving = True
                await stream.finish()

    def _settle(self, result: Result, size: int) -> None:
        limited = len(self._in_flight) >= self.window.size and self._source.queue.backlog()
        message = self._in_flight.pop(result.id, None)
        if message is None:
            return  # not ours, or answered twice
        self._progress = True
        message.reply_size = size
        network_s = self._heard_at - message.sent_at - result.timing.total_s
        self.window.observe(result.timing, network_s=network_s, limited=limited)
        self._source.on_result(message, result)
        if self._source.queue:
            self._rouse()

    def _upload_s(self) -> float:
        """Return the seconds that the bytes in flight may take on a slow line, at most one more stall.

        A proxy that buffers an upload acknowledges it at once: then nothing shows that it still goes on.
        """
        return min(self._source.stall_s, sum(message.size for message in self._in_flight.values()) / _SLOW_BYTES_PER_S)

    def _progressed(self) -> bool:
        """Return whether bytes passed in either direction since the last look; the first look only counts them."""
        before, self._exchanged = self._exchanged, exchanged_bytes(self._target[0])
        return before != self._exchanged and before > 0

    def _watch(self, stream: Stream) -> None:
        """Cancel a stream that owes an answer and has been silent for too long: the peer may be gone."""
        now = time.monotonic()
        oldest = min((message.sent_at for message in self._in_flight.values()), default=now)
        owed = self._opening or bool(self._in_flight)
        quiet_s = now - (self._heard_at if self._opening else max(oldest, self._heard_at))
        if owed and quiet_s > self._source.stall_s / 2 and self._progressed():
            self._heard_at = now
        elif owed and quiet_s > self._source.stall_s + self._upload_s():
            stream.cancel()
            if self._channel is not None:
                current_runtime().drop(self._channel)
        elif not owed and now - self._heard_at > _IDLE_S:
            self._leaving = True
            stream.cancel()
        loop = asyncio.get_running_loop()
        self._watcher = loop.call_later(self._source.stall_s / 4, self._watch, stream)

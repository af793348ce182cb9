"""One stream, from its opening to its end: messages out while there is room, results back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

from midrib.remote._connect.transport import EmbeddingStream
from midrib.remote._items.codec import Result, Timing, decode_result, parsed_response
from midrib.remote._shared_memory.fetch import fetch_segment
from midrib.remote._stream.call import Message
from midrib.remote._stream.context import SessionContext
from midrib.remote._stream.liveness import Ending, SilenceWatchdog
from midrib.remote._stream.sharing import SharedMessages
from midrib.remote._stream.window import MessagesInFlight, StreamWindow
from midrib.v1 import embedding_pb2
from midrib.wire import (
    InternalError,
    MidribError,
    RevisionMismatchError,
    StreamProtocolError,
    UnavailableError,
    UnsupportedError,
)

_log = logging.getLogger("midrib.remote")


class Exchange:
    """Sends the session's messages over one stream and settles their results. On the event loop only.

    target: "ip:port" of the server.  address: the server's name, for error messages.
    slots: returns among how many messages the queue is divided now, at least 1.
    opened: the server accepted the stream.  answered: at least one result came.
    """

    def __init__(
        self,
        context: SessionContext,
        stream: EmbeddingStream,
        window: StreamWindow,
        *,
        target: str,
        address: str,
        slots: Callable[[], int] = lambda: 1,
    ) -> None:
        self.opened = self.answered = False
        self.in_flight = MessagesInFlight()
        self._context = context
        self._stream = stream
        self._window = window
        self._slots = slots
        self._address = address
        self._watchdog = SilenceWatchdog(
            stream, target, self.in_flight, stall_s=context.stall_s, reply_row_bytes=context.reply_row_bytes
        )
        self._first: deque[Message] = deque()
        self._draining = False
        self._sent_bytes = 0
        self._idle: asyncio.Future[None] | None = None
        self._memory: SharedMessages | None = None

    @property
    def silent(self) -> bool:
        """Whether the stream was ended because its server went silent."""
        return self._watchdog.ending is Ending.SILENT

    @property
    def graceful(self) -> bool:
        """Whether the stream ended as intended: it was idle, used up its budget, or the server drains."""
        return self._draining or self._watchdog.ending is Ending.IDLE

    def rouse(self) -> None:
        """Have the writer look for messages, if it waits for some."""
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def send_first(self, message: Message) -> None:
        """Send a message before everything in the queue, whether or not the window has room."""
        self._first.append(message)
        self.rouse()

    async def run(self) -> MidribError:
        """Open the stream, exchange messages until it ends, and return why it ended.

        Raises a MidribError if the server refuses the stream. Messages without a result are queued again.
        """
        writer: asyncio.Task[None] | None = None
        try:
            await self._open()
            writer = asyncio.create_task(self._write())
            await self._read()
            error = await self._stream.error()
            if error.reason in ("STREAM_BROKEN", "PROXY_LIMIT"):
                self._context.queue.limit_bytes(self._window.budget.shrink(self._sent_bytes))
            return error
        finally:
            self._watchdog.stop()
            if writer is not None:
                writer.cancel()  # it takes no further message
            # Before anything is awaited: `close` may cancel this task here as well.
            self._context.results.requeue([*self.in_flight.pop_all(), *self._first])
            self._stream.cancel()
            if writer is not None:
                await asyncio.gather(writer, return_exceptions=True)
            if self._memory is not None:
                self._memory.close()

    async def _open(self) -> None:
        """Open the stream. Raises UnavailableError, RevisionMismatchError or StreamProtocolError for other answers."""
        await self._stream.write(self._context.opening)
        data = await self._stream.read()
        if data is None:
            raise await self._stream.error()
        response = self._response(data)
        if response.HasField("go_away"):
            raise UnavailableError(f"{self._address} is draining: {response.go_away.reason}", reason="DRAINING")
        if not response.HasField("opened"):
            raise StreamProtocolError(f"{self._address} answered Open with something else: is it a Midrib server?")
        revision, expected = response.opened.revision, self._context.spec.revision
        if revision != expected:
            raise RevisionMismatchError(
                f"{self._address} serves revision {revision[:12]}, expected {expected[:12]}: serve that revision, "
                "or build the client again and train the head on the new revision"
            )
        await self._share(response.opened)
        self.opened = True
        self._watchdog.opened()
        self._window.allow(response.opened.limits.max_stream_items)

    async def _share(self, opened: embedding_pb2.Opened) -> None:
        """Fetch the memory that the server shares; without it, rows go over the network.

        Raises UnsupportedError if there is none, and the caller insists on it.
        """
        policy, route = self._context.policy, self._context.route
        try:
            route.refusal = self._context.refusal(opened)
            if not route.refusal:
                self._memory = SharedMessages(await fetch_segment(opened.shared_memory), self._context.reply_row_bytes)
                self._context.queue.allow_bytes(self._memory.part_bytes, max_rows=self._memory.part_rows)
        except OSError as error:
            route.refusal = str(error)
        if route.refusal and policy.shared_memory:
            raise UnsupportedError(
                f"{self._address} shares no memory with this process: {route.refusal}; pass shared_memory=None to "
                "use the network"
            )

    async def _write(self) -> None:
        while True:
            for message in self._messages():
                item_id = self.in_flight.new_id()
                data = self._encode(message, item_id)
                if data is None:
                    continue
                if not self._window.budget.allows(self._sent_bytes, len(data)):
                    self._first.append(message)
                    await self._finish()
                    return
                self.in_flight.add(item_id, message)
                self._sent_bytes += len(data)
                if not await self._stream.write(data):
                    return  # the reader learns why
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def _messages(self) -> Iterator[Message]:
        """Yield messages while there is room: a full window, or a few small ones, which wait to be joined."""
        queue = self._context.queue
        while not self._draining:
            if not self._first:
                room = self._window.room(len(self.in_flight), backlog=queue.backlog())
                message = queue.take(self._slots()) if room else None
                if message is None:
                    return
                self._first.append(message)
            if self._memory is not None and not self._memory.has_room(self._first[0]):
                return  # the next result makes room
            yield self._first.popleft()

    def _encode(self, message: Message, item_id: int) -> bytes | None:
        """Return the bytes of an item; None if it cannot be encoded, which fails its own calls only."""
        began = time.monotonic()
        memory = self._memory
        try:
            shared = None if memory is None else memory.encode(message, item_id)
            data = message.encode(item_id) if shared is None else shared
        except Exception as error:  # noqa: BLE001 - any error may fail only the calls of this message
            _log.exception("could not encode %d rows for %s", message.rows, self._address)
            failure = InternalError(f"the rows could not be encoded: {error!r}: this is a fault of the client")
            self._context.results.settle(message, Result(item_id, failure, Timing()))
            return None
        message.sent_at = time.monotonic()
        message.encode_s = message.sent_at - began
        message.shared = shared is not None
        message.size = message.input_bytes if message.shared else len(data)
        return data

    async def _read(self) -> None:
        while (data := await self._stream.read()) is not None:
            self._watchdog.heard_at = time.monotonic()
            result = decode_result(data, self._memory)
            if result is not None:
                self._settle(result, len(data))
            elif self._response(data).HasField("go_away"):
                await self._finish()

    def _response(self, data: bytes) -> embedding_pb2.EmbedStreamResponse:
        """Return a response that is not a result. Raises InternalError for other bytes."""
        if (response := parsed_response(data)) is None:
            raise InternalError(
                f"{self._address} answered with {len(data)} bytes that are no message of this call: is it a Midrib "
                "server?"
            )
        return response

    async def _finish(self) -> None:
        """Send no more on this stream; it ends once the server has answered its items."""
        self._draining = True
        await self._stream.finish()

    def _settle(self, result: Result, size: int) -> None:
        queue = self._context.queue
        limited = len(self.in_flight) >= self._window.size and queue.backlog()
        message = self.in_flight.pop(result.id)
        if message is None:
            return  # an unknown id, or a second result for one item
        self.answered = True
        message.reply_size = size + result.shared_bytes
        network_s = self._watchdog.heard_at - message.sent_at - result.timing.total_s
        self._window.observe(result.timing, network_s=network_s, limited=limited)
        self._context.results.settle(message, result)
        if self._memory is not None:
            self._memory.free(result.id)
        if queue or self._first:
            self.rouse()

"""One call: the context that its handler and the interceptors see, and its status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

import grpc

from midrib.server._front.headers import Metadata, RequestHead, trailers
from midrib.server._front.limits import FrameTime
from midrib.server._front.messages import MessageError
from midrib.server._large import Buffer
from midrib.wire import LimitExceededError, error_to_status

logger = logging.getLogger(__name__)

_OK_TRAILERS = trailers(grpc.StatusCode.OK, "", ())


class CallStream(Protocol):
    """The messages of one call in both directions.

    head: the headers of the call.  on_lost: called when the client cancels the call or leaves.
    """

    head: RequestHead
    on_lost: Callable[[], None] | None

    @property
    def is_closed(self) -> bool:
        """Whether the status is sent, or the client has left."""

    def read_ahead(self) -> None:
        """Let the client send further messages while one is handled."""

    async def read(self) -> Buffer | None:
        """Return the next message; None if the client has sent all. Raises MessageError if it is refused."""

    async def write(self, message: Buffer) -> None:
        """Send a message; returns once flow control has let it go. Does nothing once the stream is closed."""

    async def finish(self, trailers: bytes) -> None:
        """End the stream with trailers after all messages; returns once they are sent, or the stream is closed."""

    def end(self, trailers: bytes) -> None:
        """End the stream with trailers now. Messages that wait for flow control are dropped."""

    def close_connection(self) -> None:
        """Close the connection of the stream without its last bytes."""


def ignore_refusal(_reason: str) -> None:
    """Count nothing."""


def _details(fault: MessageError) -> Metadata:
    """Return the details that tell clients the reason LIMIT_EXCEEDED of a message that is too long."""
    if fault.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ()
    status = error_to_status(LimitExceededError(str(fault)))
    return (("grpc-status-details-bin", status.SerializeToString()),)


class CallContext:
    """The context of a call, in place of `grpc.aio.ServicerContext`.

    parse: reads a message of the client.  serialize: writes a message of the server; None for bytes as they are.
    refused: called with the reason if a limit or a rule of gRPC ends the call.
    """

    __slots__ = (
        "_callbacks",
        "_code",
        "_deadline",
        "_details",
        "_has_read",
        "_max_message_bytes",
        "_peer",
        "_refused",
        "_stream",
        "_task",
        "_timer",
        "_trailing_metadata",
        "parse",
        "serialize",
    )

    def __init__(
        self,
        stream: CallStream,
        peer: str,
        *,
        max_message_bytes: int,
        refused: Callable[[str], None] = ignore_refusal,
    ) -> None:
        self.parse: Callable[[Any], Any] | None = None
        self.serialize: Callable[[Any], Buffer] | None = None
        self._stream = stream
        self._peer = peer
        self._max_message_bytes = max_message_bytes
        self._refused = refused
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._has_read = False
        self._trailing_metadata: Metadata = ()
        self._callbacks: list[Callable[[Any], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        timeout_s = stream.head.timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    # The context of handlers

    async def read(self) -> Any:
        """Return the next message, or `grpc.aio.EOF`. Raises AbortError if the message breaks a limit."""
        if self._has_read and not FrameTime.of(asyncio.get_running_loop()).is_left():
            await asyncio.sleep(0)  # a client may have sent thousands of messages, which all lie ready
        self._has_read = True
        try:
            data = await self._stream.read()
        except MessageError as fault:
            await self.refuse(fault.code, str(fault), _details(fault))
        if data is None:
            return grpc.aio.EOF
        return data if self.parse is None else self.parse(data)

    async def write(self, message: Any) -> None:
        """Send a message; returns once HTTP/2's flow control has let it go. Raises AbortError if it is too long."""
        data = message if self.serialize is None else self.serialize(message)
        if len(data) > self._max_message_bytes:
            await self.refuse(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the answer has {len(data)} bytes, a message carries at most {self._max_message_bytes}",
            )
        await self._stream.write(data)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the call with a status. Always raises AbortError."""
        self._code, self._details, self._trailing_metadata = code, details, tuple(trailing_metadata)
        raise grpc.aio.AbortError()

    async def refuse(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """Count a call that breaks a limit or a rule of gRPC, and end it. Always raises AbortError."""
        self._refused("LIMIT_EXCEEDED" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else code.name)
        await self.abort(code, details, trailing_metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code of the status that ends the call."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the text of the status that ends the call."""
        self._details = details

    def code(self) -> grpc.StatusCode | None:
        """Return the code of the status; None if it was not set, which means OK."""
        return self._code

    def details(self) -> str:
        """Return the text of the status."""
        return self._details

    def trailing_metadata(self) -> Metadata:
        """Return the metadata that is sent with the status."""
        return self._trailing_metadata

    def invocation_metadata(self) -> Metadata:
        """Return the metadata of the client."""
        return self._stream.head.metadata

    def peer(self) -> str:
        """Return gRPC's name of the client's address."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline; None if the client waits without limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def cancelled(self) -> bool:
        """Return whether the client has cancelled the call or left."""
        return self._stream.is_closed

    def close_connection(self) -> None:
        """Close the client's connection, and with it all its calls."""
        self._stream.close_connection()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call a function with this context once the answer is sent, or the client has left."""
        self._callbacks.append(callback)

    # For the server

    def started(self, task: asyncio.Task[None]) -> None:
        """Cancel the task when the client leaves or the deadline passes."""
        self._task = task
        self._stream.on_lost = self._cancel_task
        if self._deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self._deadline - time.monotonic()), self._expire)

    def cancel(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with a status and cancel its handler."""
        self._code, self._details, self._trailing_metadata = code, details, ()
        self._stream.end(trailers(code, details, ()))
        self._cancel_task()

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def finish(self) -> None:
        """Send the status, after all messages."""
        if self._code is None:
            await self._stream.finish(_OK_TRAILERS)
        else:
            await self._stream.finish(trailers(self._code, self._details, self._trailing_metadata))

    def ended(self) -> None:
        """End a stream that has no status yet, and call the functions of `add_done_callback`."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._stream.is_closed:
            self._stream.end(trailers(grpc.StatusCode.UNAVAILABLE, "the call ended without an answer", ()))
        for callback in self._callbacks:
            try:
                callback(self)
            except Exception:  # the other callbacks free the memory of the call
                logger.exception("a function that should be called at the end of a call failed")
        self._callbacks.clear()
        self._task = self._stream.on_lost = None  # cycles, which would keep the call until a garbage collection

    def _expire(self) -> None:
        self.cancel(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


class Requests:
    """The messages of a client as an iterator, for handlers that do not call `read`."""

    def __init__(self, call: CallContext) -> None:
        self._call = call

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        message = await self._call.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

"""The connection of a session to one server: a stream is opened when there is work, and again when it breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import grpc

from midrib.remote._connect.dns import resolve_all
from midrib.remote._connect.event_loop import current_runtime
from midrib.remote._connect.retries import attempts, retriable
from midrib.remote._connect.transport import EmbeddingStream
from midrib.remote._stream.call import Message
from midrib.remote._stream.context import SessionContext
from midrib.remote._stream.exchange import Exchange
from midrib.remote._stream.window import StreamWindow
from midrib.wire import InternalError, MidribError

# How long an address that refused for good (another revision, no token) is left out.
_REFUSED_S: Final = 5.0


class StreamConnection:
    """Keeps one stream to one server while the session has work. On the event loop only.

    address: "host:port".  number: which of the endpoint's connections to this address.
    machine_index: which of the machines behind the address's name, if it has several.
    machines: the number of machines behind that name when it was last looked up.
    changed: called after a failure, and after `machines` changed.  failing: returns how many of the session's
    connections have failed and try again.  all_slots: returns the sum of their `slots`, at least 1.
    """

    def __init__(
        self,
        context: SessionContext,
        address: str,
        changed: Callable[[StreamConnection], None],
        *,
        number: int = 0,
        failing: Callable[[], int] = lambda: 1,
        all_slots: Callable[[], int] = lambda: 1,
        machine_index: int = 0,
    ) -> None:
        self.address = address
        self.number = number
        self.machine_index = machine_index
        self.machines = 1
        self._failure: MidribError | None = None
        self._context = context
        self._changed = changed
        self._failing = failing
        self._all_slots = all_slots
        self._window = StreamWindow(context.policy.window)
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._refused_until = 0.0

    @property
    def failure(self) -> MidribError | None:
        """Why the last stream broke or was refused; None while a stream works."""
        return None if self._exchange is not None and self._exchange.opened else self._failure

    @property
    def alive(self) -> bool:
        """Whether it has a stream, opens one, or waits for its next attempt."""
        return self._task is not None and not self._task.done()

    @property
    def healthy(self) -> bool:
        """Whether it is alive and its last stream did not fail."""
        return self.alive and self.failure is None

    @property
    def busy(self) -> int:
        """The number of items in flight."""
        return 0 if self._exchange is None else len(self._exchange.in_flight)

    @property
    def slots(self) -> int:
        """How many messages its server can use now, see `StreamWindow.slots`."""
        return self._window.slots(self.busy) if self.healthy else 0

    def wake(self, *, even_if_refused: bool = False) -> bool:
        """Look for work in the queue, and open a stream if there is none. Return False while the server is left out."""
        if not self.alive:
            if time.monotonic() < self._refused_until and not even_if_refused:
                return False
            self._task = asyncio.get_running_loop().create_task(self._run())
        if self._exchange is not None:
            self._exchange.rouse()
        return True

    def sent_before(self, moment: float) -> list[Message]:
        """Return the messages that were sent before a moment of time.monotonic() and have no result yet."""
        return [] if self._exchange is None else self._exchange.in_flight.sent_before(moment)

    def send_first(self, message: Message) -> bool:
        """Send a message before everything in the queue. Return False if no stream is open."""
        if self._exchange is None or not self._exchange.opened:
            return False
        self._exchange.send_first(message)
        return True

    async def close(self) -> None:
        """End the stream; messages without a result are queued again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        """Keep a stream until the queue is empty; each stream that worked resets the back-off."""
        try:
            while True:
                async for attempt in attempts(self._worthwhile, self._failing):
                    with attempt:
                        await self._stream_once()
                if not self._context.queue.busy():
                    return
        except Exception as error:  # noqa: BLE001 - the calls that wait must learn of any error
            if not isinstance(error, MidribError):
                error = InternalError(f"the stream to {self.address} failed in this client: {error!r}")
            if not retriable(error):
                self._refused_until = time.monotonic() + _REFUSED_S
            self._task = None  # this very task: the connection counts as closed from here on
            self._fail(error)

    def _worthwhile(self, error: BaseException) -> bool:
        if not isinstance(error, MidribError) or not retriable(error) or not self._context.queue.busy():
            return False
        self._fail(error)
        return True

    def _fail(self, error: MidribError) -> None:
        # The traceback holds the stream, and with it the TCP connection of a channel that was dropped.
        self._failure = error.with_traceback(None)
        self._changed(self)

    async def _stream_once(self) -> None:
        """Open a stream and keep it until it ends. Raises the MidribError that ended it, unless results had come."""
        channel, target = await self._channel()
        stream = EmbeddingStream(channel, target, self._context.endpoint)
        exchange = self._exchange = Exchange(
            self._context, stream, self._window, target=target, address=self.address, slots=self._all_slots
        )
        try:
            error = await exchange.run()
        except MidribError as refusal:
            if refusal.reason == "CONNECT_TIMEOUT":
                current_runtime().allow_longer_connect(channel)
            raise
        finally:
            self._exchange = None
            if exchange.silent:
                current_runtime().drop(channel)
        if not (exchange.graceful or exchange.answered):
            raise error
        self._failure = None if exchange.graceful else error

    async def _channel(self) -> tuple[grpc.aio.Channel, str]:
        """Return the channel to this connection's machine, and its address."""
        endpoint = self._context.endpoint
        targets = await resolve_all(self.address)
        if not targets:
            return current_runtime().channel(self.address, endpoint, number=self.number), self.address
        if self.machines != len(targets):
            self.machines = len(targets)
            self._changed(self)
        target = targets[self.machine_index % len(targets)]
        host = self.address.rpartition(":")[0]
        return current_runtime().channel(target, endpoint, host, number=self.number), target

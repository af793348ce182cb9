"""The loop of a stream of items, for every protocol: it reads within its limits, and writes the answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from midrib.server._admission.quotas import Quota, Reservation
from midrib.server._calls.embedder import AcceptedItem, Embedded, ItemInput, OpenCall, StreamQuota
from midrib.server._engine.item import Outcome
from midrib.server._errors import public_error
from midrib.server._grpc.context import Context
from midrib.server._grpc.stream_writer import StreamAnswer, StreamWriter
from midrib.server._intake.media_input import Media, WireTensor
from midrib.server._large import LARGE_BYTES
from midrib.server._settings import Settings
from midrib.v1 import embedding_pb2
from midrib.wire import (
    DuplicateItemError,
    MidribError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)

Request = TypeVar("Request", contravariant=True)
Id = TypeVar("Id", bound=Hashable)

# Streams that were opened together end apart: their clients do not all open another stream at the same time.
_AGE_SPREAD = 0.2
# A connection that reaches its age closes after `drain_grace_s`. Behind a proxy that hides the close from the client,
# a stream that is open then would look silent. So each stream is renewed within this share of the grace.
_SHARE_OF_GRACE = 0.5


class StreamProtocol(Protocol[Request, Id]):
    """How one protocol reads the requests of a stream and forms its answers.

    in_order: whether answers keep the order of the requests. If not, clients match them by id.
    leaving: set when the stream should end, because the backbone or the server stops.
    """

    in_order: bool
    leaving: asyncio.Event

    @property
    def go_away(self) -> Callable[[str], Any] | None:
        """A function that makes the message that tells the client so; None if the status of the stream does."""

    def id_of(self, request: Request) -> Id:
        """Return the id of the answer to a request. Raises StreamProtocolError for a request out of place."""

    async def read(self, request: Request) -> tuple[OpenCall, ItemInput]:
        """Return the call that a request belongs to, and its input. Raises MidribError if it is invalid."""

    def answer(self, request_id: Id, embedded: Embedded) -> Any:
        """Return the message with an embedding."""

    def refusal(self, request_id: Id, error: MidribError) -> Any:
        """Return the message with the error of one request."""


class ItemStream(Generic[Request, Id]):
    """One stream. An item counts as in flight until its answer is written.

    A client that reads no answers is therefore soon not read from, and HTTP/2's flow control stops it. After
    `max_unread_s` its stream is closed, which frees the quota for others. An invalid item fails alone. After
    `max_stream_age_s` the client is asked to open another stream; with `max_connection_age_s`, before its connection
    closes.
    """

    def __init__(self, settings: Settings, context: Context, protocol: StreamProtocol[Request, Id]) -> None:
        self._protocol = protocol
        self._quota = StreamQuota(Quota(settings.max_stream_items, what="items"), Quota(settings.max_stream_bytes))
        self._writer = StreamWriter(context, settings.max_unread_s, in_order=protocol.in_order)
        # A client without a GoAway would take the end of its stream for a failure.
        self._max_age_s = None if protocol.go_away is None else _max_age_s(settings)
        self._ids: set[Id] = set()
        self._items: set[AcceptedItem] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outcomes: set[asyncio.Future[Outcome]] = set()
        self._is_leaving = False

    async def run(self, requests: AsyncIterator[Request]) -> None:
        """Serve the stream to its end.

        Raises UnavailableError if the client reads no answers, or if the server stops and the protocol has no message
        for that; and the errors of reading and writing, once the accepted items are answered.
        """
        reader = asyncio.create_task(self._read(requests))
        writer = asyncio.create_task(self._writer.run())
        leaving = asyncio.create_task(self._reason_to_leave())
        unread = asyncio.create_task(self._writer.fail_if_unread())
        try:
            await asyncio.wait({reader, writer, leaving, unread}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not reader.done():
                self._leave(leaving.result())
            # Written to the end even if reading failed: a status in the middle of the first message gets lost.
            self._writer.close()
            await asyncio.wait({writer, unread}, return_when=asyncio.FIRST_COMPLETED)
            (unread if unread.done() else writer).result()
            if reader.done():
                reader.result()
            elif self._protocol.go_away is None:
                raise UnavailableError("the server is going away: open another stream elsewhere")
        finally:
            self._cancel(reader, writer, leaving, unread)

    def say(self, message: Any) -> None:
        """Write a message that answers no item."""
        self._writer.put(self._writer.expect(_nothing), message)

    async def _reason_to_leave(self) -> str:
        """Return a reason for the client once the stream should end: its backbone drains, or it reaches its age."""
        age_s = self._max_age_s
        if age_s is not None:
            age_s *= random.SystemRandom().uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD)
        try:
            await asyncio.wait_for(self._protocol.leaving.wait(), age_s)
        except TimeoutError:
            return "the stream has reached the age of max_stream_age_s or max_connection_age_s: open another stream"
        return "the backbone is being drained: open another stream"

    def _leave(self, reason: str) -> None:
        self._is_leaving = True
        if self._protocol.go_away is not None:
            self.say(self._protocol.go_away(reason))

    def _cancel(self, *tasks: asyncio.Task[Any]) -> None:
        """Cancel all work of the stream and release the bytes of its items."""
        for task in (*tasks, *self._tasks):
            task.cancel()
        for outcome in list(self._outcomes):
            outcome.cancel()
        for item in self._items:
            item.release()
        self._items.clear()
        self._writer.abandon()

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        while await self._take(requests):
            pass

    async def _take(self, requests: AsyncIterator[Request]) -> bool:
        """Read and accept one request, once there is room for it; return whether there was one.

        While the client is silent, or its next request waits for room, nothing keeps the messages before.
        """
        request = await anext(requests, None)
        if request is None or self._is_leaving:
            return request is not None
        request_id = self._protocol.id_of(request)
        try:
            self._check_id(request_id)
            call, source = await self._protocol.read(request)
            del request
            item = await call.accept(source, self._quota)
        except (UnauthenticatedError, PermissionDeniedError):  # the token has been withdrawn: it ends the stream
            raise
        except Exception as error:  # noqa: BLE001 - an invalid item fails alone
            await self._refuse(request_id, error)
            return True
        await self._start(request_id, item, is_media=isinstance(source, embedding_pb2.Input | Media | WireTensor))
        return True

    async def _start(self, request_id: Id, item: AcceptedItem, *, is_media: bool) -> None:
        """Start to compute an item."""
        self._ids.add(request_id)
        self._items.add(item)
        answer = self._writer.expect(partial(self._release, request_id, item))
        if not is_media:
            await self._compute(request_id, item, answer)
            return
        # Media are decoded in other threads, and the next request is read meanwhile.
        self._start_task(self._compute(request_id, item, answer))

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check_id(self, request_id: Id) -> None:
        """Raise DuplicateItemError if an item with this id is in flight."""
        if not self._protocol.in_order and request_id in self._ids:
            raise DuplicateItemError(f"item {request_id} is still in flight: use another id")

    async def _refuse(self, request_id: Id, error: Exception) -> None:
        """Answer a request that was not accepted; its answer counts as an item of the stream until it is written."""
        reservation = Reservation((self._quota.items, 1))
        await reservation.acquire()
        self._fail(request_id, self._writer.expect(reservation.release), error)

    async def _compute(self, request_id: Id, item: AcceptedItem, answer: StreamAnswer) -> None:
        """Queue an item; `_finish` answers it."""
        try:
            outcome = await item.queue()
        except Exception as error:  # noqa: BLE001 - an invalid item fails alone
            self._fail(request_id, answer, error)
            return
        self._outcomes.add(outcome)
        outcome.add_done_callback(partial(self._finish, request_id, item, answer))

    def _finish(
        self, request_id: Id, item: AcceptedItem, answer: StreamAnswer, outcome: asyncio.Future[Outcome]
    ) -> None:
        self._outcomes.discard(outcome)
        if outcome.cancelled():
            return
        try:
            result = outcome.result()
            if result.rows.nbytes > LARGE_BYTES:
                self._start_task(self._answer_large(request_id, item, answer, result))
            else:
                self._writer.put(answer, self._protocol.answer(request_id, item.embedded(result)))
        except Exception as error:  # noqa: BLE001 - of the computation, or of forming the message
            self._fail(request_id, answer, error)

    async def _answer_large(self, request_id: Id, item: AcceptedItem, answer: StreamAnswer, outcome: Outcome) -> None:
        """Form a large answer in a thread."""
        try:
            message = await asyncio.to_thread(lambda: self._protocol.answer(request_id, item.embedded(outcome)))
        except Exception as error:  # noqa: BLE001 - of forming the message
            self._fail(request_id, answer, error)
        else:
            self._writer.put(answer, message)

    def _fail(self, request_id: Id, answer: StreamAnswer, error: Exception) -> None:
        self._writer.put(answer, self._protocol.refusal(request_id, public_error(error, "the item failed")))

    def _release(self, request_id: Id, item: AcceptedItem) -> None:
        self._ids.discard(request_id)
        self._items.discard(item)
        item.release()


def _nothing() -> None:
    """Do nothing, after a message that answers no item."""


def _max_age_s(settings: Settings) -> float | None:
    """Return the age at which a stream should be renewed, in seconds; None for never."""
    ages = [settings.max_stream_age_s]
    if settings.max_connection_age_s is not None and settings.drain_grace_s > 0:
        ages.append(_SHARE_OF_GRACE * settings.drain_grace_s)
    return min((age for age in ages if age is not None), default=None)

"""One EmbedStream call: what it read, what is in flight, what it still has to write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NoReturn, TypeAlias

from midrib.server._admission.quotas import Quota, Reservation
from midrib.server._calls.embedder import Embedder
from midrib.server._calls.requests import check_reply, empty_outcome, new_item, open_backbone, timing
from midrib.server._catalogue.descriptions import limits_message
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.item import Outcome
from midrib.server._errors import public_error
from midrib.server._grpc.context import caller_of
from midrib.server._grpc.errors import Context
from midrib.server._grpc.fast_codec import StreamItem, write_result
from midrib.server._grpc.stream_writer import StreamWriter
from midrib.server._intake.options import apply_options, check_options
from midrib.v1 import embedding_pb2
from midrib.v1.embedding_pb2 import EmbedStreamRequest, EmbedStreamResponse, Result
from midrib.wire import Array, DuplicateItemError, MidribError, StreamProtocolError, error_to_status

Request: TypeAlias = EmbedStreamRequest | StreamItem


class StreamSession:
    """Reads items while its bytes in flight are under the limit, and writes results as they come.

    An item counts as in flight until its result is written, so a client that never reads is soon not read from:
    HTTP/2 flow control does the rest. After a while its stream is ended, so that others get what it holds.
    """

    def __init__(self, embedder: Embedder, context: Context) -> None:
        settings = embedder.catalogue.settings
        self._catalogue = embedder.catalogue
        self._context = context
        self._embedder = embedder
        self._bytes = Quota(settings.max_stream_bytes)
        self._items = Quota(settings.max_stream_items, what="items")
        self._reservations: dict[int, Reservation] = {}
        self._waiting: set[asyncio.Future[Outcome]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Each response with what is to be called once it is written.
        self._outgoing: asyncio.Queue[tuple[EmbedStreamResponse | bytes, Callable[[], None]] | None] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer = StreamWriter(context, settings.max_unread_s)
        self._going_away = False

    async def run(self, first: Request, requests: AsyncIterator[Request]) -> None:
        """Serve the stream to its end; raises what is the fault of the stream as a whole."""
        loaded = self._open(first)
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read(loaded, requests))
        drained = asyncio.create_task(loaded.served.draining.wait())
        stuck = asyncio.create_task(self._writer.fail_if_unread())
        try:
            await asyncio.wait({reader, drained, writer, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if stuck.done():
                stuck.result()
            if not reader.done():
                self._going_away = True
                goodbye = embedding_pb2.GoAway(reason="the backbone is being drained: open another stream")
                self._outgoing.put_nowait((EmbedStreamResponse(go_away=goodbye), _nothing))
            else:
                reader.result()
            await self._write_the_rest(writer, stuck)
        except Exception:
            # A status in the middle of the first message gets lost, and the client would wait for ever.
            self._outgoing.put_nowait(None)
            await asyncio.wait({writer, stuck}, return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            for task in (reader, drained, writer, stuck, *self._tasks):
                task.cancel()
            for done in list(self._waiting):  # nobody is there to take their rows
                done.cancel()
            for reservation in self._reservations.values():
                reservation.release()
            self._reservations.clear()

    def _open(self, first: Request) -> Loaded:
        if isinstance(first, StreamItem) or first.WhichOneof("message") != "open":
            raise StreamProtocolError("the first message of a stream must be `open`, then come items")
        self._options = first.open.options
        self._caller = caller_of(self._context, flow=self, priority=first.open.priority)
        loaded = open_backbone(self._catalogue, first.open)
        described = loaded.served.description
        check_options(self._options, described.num_features)
        opened = embedding_pb2.Opened(
            revision=described.revision,
            num_features=described.num_features,
            limits=limits_message(self._catalogue.settings, loaded.intake),
        )
        self._outgoing.put_nowait((EmbedStreamResponse(opened=opened), _nothing))
        return loaded

    async def _read(self, loaded: Loaded, requests: AsyncIterator[Request]) -> None:
        async for request in requests:
            if not self._going_away:
                await self._take(loaded, request)
            del request  # while the client is silent, nothing keeps its last message

    async def _take(self, loaded: Loaded, request: Request) -> None:
        size = loaded.intake.size
        if isinstance(request, StreamItem):
            if await self._reserve(request.id, size(request.tensor)):
                await self._embed(loaded, request.id, request.tensor)
            return
        if request.WhichOneof("message") != "item":
            raise StreamProtocolError("a stream is opened once: send only items after `open`", reason="OPENED_TWICE")
        item = request.item
        if await self._reserve(item.id, size(item.input)):
            # Media are decoded beside the loop: the next item need not wait for that.
            task = asyncio.create_task(self._embed(loaded, item.id, item.input))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reserve(self, item_id: int, size: int) -> bool:
        """Hold an item's bytes, once there is room; False, with the item refused, where its id is in flight."""
        if item_id in self._reservations:
            duplicate = DuplicateItemError(f"item {item_id} is still in flight: use another id")
            reservation = Reservation((self._items, 1))
            await reservation.acquire()
            self._outgoing.put_nowait((_refusal(item_id, duplicate), reservation.release))
            return False
        reservation = self._embedder.reservation(size, self._caller, (self._items, 1), (self._bytes, size))
        await reservation.acquire()
        self._reservations[item_id] = reservation
        self._idle.clear()
        return True

    async def _embed(self, loaded: Loaded, item_id: int, given: embedding_pb2.Input | Array) -> None:
        """Queue one item; its result is written when it comes. An error is the item's own."""
        arrived = time.monotonic()
        try:
            intake = loaded.intake
            rows = await intake.read(given) if isinstance(given, embedding_pb2.Input) else intake.checked(given)
            check_reply(loaded, len(rows), self._options, self._catalogue.settings.max_message_bytes)
            if not len(rows):
                self._answer(item_id, empty_outcome(loaded, (rows,)), arrived)
                return
            queued = new_item(loaded, (rows,), self._caller)
            self._waiting.add(queued.done)
            queued.done.add_done_callback(partial(self._finish, item_id, arrived))
            await loaded.served.batcher.put(queued)
        except Exception as error:  # noqa: BLE001 - one bad item spoils only itself
            self._refuse(item_id, public_error(error, "the item failed"))

    def _finish(self, item_id: int, arrived: float, done: asyncio.Future[Outcome]) -> None:
        self._waiting.discard(done)
        if done.cancelled():
            return
        try:
            self._answer(item_id, done.result(), arrived)
        except Exception as error:  # noqa: BLE001 - the item's own, or one of writing its message down
            self._refuse(item_id, public_error(error, "the item failed"))

    def _answer(self, item_id: int, outcome: Outcome, arrived: float) -> None:
        rows = apply_options(outcome.rows, self._options)
        result = write_result(item_id, rows, self._options, timing(outcome, arrived))
        self._outgoing.put_nowait((result, partial(self._release, item_id)))

    def _refuse(self, item_id: int, error: MidribError) -> None:
        self._outgoing.put_nowait((_refusal(item_id, error), partial(self._release, item_id)))

    async def _write(self) -> None:
        while (outgoing := await self._outgoing.get()) is not None:
            response, written = outgoing
            await self._writer.write(response)
            written()
            del outgoing, response

    async def _write_the_rest(self, writer: asyncio.Task[None], stuck: asyncio.Task[NoReturn]) -> None:
        """Wait until nothing is in flight, or writing has failed; raises what it raised."""
        idle = asyncio.create_task(self._idle.wait())
        try:
            await asyncio.wait({idle, writer, stuck}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()
        if stuck.done():
            stuck.result()
        self._outgoing.put_nowait(None)
        await writer

    def _release(self, item_id: int) -> None:
        self._reservations.pop(item_id).release()
        if not self._reservations:
            self._idle.set()


def _nothing() -> None:
    """After a response that ends no item."""


def _refusal(item_id: int, error: MidribError) -> EmbedStreamResponse:
    return EmbedStreamResponse(result=Result(id=item_id, error=error_to_status(error)))

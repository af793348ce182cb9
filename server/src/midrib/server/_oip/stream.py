"""One ModelStreamInfer call: it reads ahead within its limits, and answers in the order of the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import TypeAlias

from midrib.oip.v2.inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from midrib.server._admission.quotas import Quota, Reservation
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._errors import public_error
from midrib.server._grpc.errors import Context
from midrib.server._grpc.stream_writer import StreamWriter
from midrib.wire import UnavailableError

Infer: TypeAlias = Callable[[ModelInferRequest], Awaitable[tuple[ModelInferResponse, Reservation]]]
# An answer, and what gives back all that it holds.
_Pending: TypeAlias = "tuple[asyncio.Task[ModelStreamInferResponse], ExitStack]"


class InferStream:
    """Each request is answered, or refused inside its response: one bad request spoils only itself.

    infer: answers one request, with what it holds of the server until the answer is written. A client that never
    reads is soon not read from, and after a while its stream is ended.
    """

    def __init__(self, catalogue: Catalogue, context: Context, infer: Infer) -> None:
        settings = catalogue.settings
        self._writer = StreamWriter(context, settings.max_unread_s)
        self._infer = infer
        self._closing = catalogue.closing
        self._bytes = Quota(settings.max_stream_bytes)
        self._items = Quota(settings.max_stream_items, what="items")
        self._unwritten: set[ExitStack] = set()
        self._pending: asyncio.Queue[_Pending | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[ModelStreamInferResponse]] = set()

    async def run(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        """Serve the stream to its end.

        Raises UnavailableError once what was read is answered, where the server goes away: this protocol has no
        other word for it; and where nobody reads the answers.
        """
        reader = asyncio.create_task(self._read(requests))
        closing = asyncio.create_task(self._stop_reading(reader))
        writer = asyncio.create_task(self._write())
        stuck = asyncio.create_task(self._writer.fail_if_unread())
        try:
            await asyncio.wait({writer, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if stuck.done():
                stuck.result()
            writer.result()
            if self._closing.is_set():
                raise UnavailableError("the server is going away: open another stream elsewhere")
            await reader
        finally:
            for task in (reader, closing, writer, stuck, *self._tasks):
                task.cancel()
            for held in self._unwritten:
                held.close()

    async def _write(self) -> None:
        while (pending := await self._pending.get()) is not None:
            answer, held = pending
            await self._writer.write(await answer)
            self._unwritten.discard(held)
            held.close()
            del pending, answer

    async def _read(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        try:
            async for request in requests:
                reservation = Reservation((self._items, 1), (self._bytes, request.ByteSize()))
                await reservation.acquire()
                held = ExitStack()
                held.callback(reservation.release)
                self._unwritten.add(held)
                answer = asyncio.create_task(self._answer(request, held))
                self._tasks.add(answer)
                answer.add_done_callback(self._tasks.discard)
                self._pending.put_nowait((answer, held))
                del request, answer  # while the client is silent, nothing keeps its last message
        finally:
            self._pending.put_nowait(None)

    async def _stop_reading(self, reader: asyncio.Task[None]) -> None:
        await self._closing.wait()
        reader.cancel()

    async def _answer(self, request: ModelInferRequest, held: ExitStack) -> ModelStreamInferResponse:
        try:
            response, reservation = await self._infer(request)
            held.callback(reservation.release)
            return ModelStreamInferResponse(infer_response=response)
        except Exception as error:  # noqa: BLE001 - one bad request spoils only itself
            known = public_error(error, "the request failed")
            refused = ModelInferResponse(
                id=request.id,
                model_name=request.model_name,
                parameters={"reason": InferParameter(string_param=known.reason)},
            )
            return ModelStreamInferResponse(error_message=known.message, infer_response=refused)

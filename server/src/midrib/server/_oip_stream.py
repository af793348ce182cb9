"""One ModelStreamInfer call: it reads ahead within its limits, and answers in the order of the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from midrib.oip.v2.inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from midrib.server._abort import Context
from midrib.server._catalogue import Catalogue
from midrib.server._in_flight import Hold, Quota
from midrib.server._served import hidden_error
from midrib.wire import UnavailableError

_Pending = tuple[asyncio.Task[ModelStreamInferResponse], Hold]


class InferStream:
    """Each request is answered, or refused inside its response: one bad request spoils only itself.

    infer: answers one request.  A request is in flight until its answer is written, so a client that never reads
    is soon not read from.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        context: Context,
        infer: Callable[[ModelInferRequest], Awaitable[ModelInferResponse]],
    ) -> None:
        self._context = context
        self._infer = infer
        self._closing = catalogue.closing
        self._bytes = Quota(catalogue.settings.max_stream_bytes)
        self._items = Quota(catalogue.settings.max_stream_items, what="items")
        self._pending: asyncio.Queue[_Pending | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[ModelStreamInferResponse]] = set()

    async def run(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        """Serve the stream to its end.

        Raises UnavailableError once what was read is answered, where the server goes away: this protocol has no
        other word for it.
        """
        reader = asyncio.create_task(self._read(requests))
        closing = asyncio.create_task(self._stop_reading(reader))
        try:
            while (pending := await self._pending.get()) is not None:
                answer, hold = pending
                await self._context.write(await answer)
                hold.release()
            if self._closing.is_set():
                raise UnavailableError("the server is going away: open another stream elsewhere")
            await reader
        finally:
            for task in (reader, closing, *self._tasks):
                task.cancel()

    async def _read(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        try:
            async for request in requests:
                hold = Hold((self._items, 1), (self._bytes, request.ByteSize()))
                await hold.wait()
                answer = asyncio.create_task(self._answer(request))
                self._tasks.add(answer)
                answer.add_done_callback(self._tasks.discard)
                self._pending.put_nowait((answer, hold))
        finally:
            self._pending.put_nowait(None)

    async def _stop_reading(self, reader: asyncio.Task[None]) -> None:
        await self._closing.wait()
        reader.cancel()

    async def _answer(self, request: ModelInferRequest) -> ModelStreamInferResponse:
        try:
            return ModelStreamInferResponse(infer_response=await self._infer(request))
        except Exception as error:  # noqa: BLE001 - one bad request spoils only itself
            known = hidden_error(error, "the request failed")
            refused = ModelInferResponse(
                id=request.id,
                model_name=request.model_name,
                parameters={"reason": InferParameter(string_param=known.reason)},
            )
            return ModelStreamInferResponse(error_message=known.message, infer_response=refused)

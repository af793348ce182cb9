"""Health and reflection. Their clients never end a stream, so the server ends them as it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from midrib.server._grpc.context import Context
from midrib.wire import UnsupportedError


class HealthService(health.HealthServicer):
    """gRPC's health service.

    stopping: ends every Watch once it is set.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        super().__init__()
        self._stopping = stopping

    async def List(self, request: Any, context: Context) -> Any:
        """Raise UnsupportedError: the names of the backbones are for callers with a token."""
        raise UnsupportedError("Health.List is not offered here: use BackboneService.ListBackbones")

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Send the status of a service and each change of it, until the client or the server ends."""
        await _until(self._stopping, super().Watch(request, context))


class ReflectionService(reflection.aio.ReflectionServicer):
    """gRPC's reflection service.

    stopping: ends every stream once it is set.
    """

    def __init__(self, service_names: list[str], pool: Any, *, stopping: asyncio.Event) -> None:
        super().__init__(service_names, pool=pool)
        self._stopping = stopping

    async def ServerReflectionInfo(  # type: ignore[override] # the stubs lack that it is an asynchronous generator
        self, request_iterator: AsyncIterator[Any], unused_context: Context
    ) -> Any:
        """Answer requests until the client or the server ends the stream."""
        answer: Any = super().ServerReflectionInfo
        async for response in answer(self._requests(request_iterator), unused_context):
            yield response

    async def _requests(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        while (request := await _until(self._stopping, _next(requests))) is not None:
            yield request


async def _next(requests: AsyncIterator[Any]) -> Any:
    return await anext(requests, None)


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of the work; None if it is cancelled because the event is set first."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stopped.cancel()

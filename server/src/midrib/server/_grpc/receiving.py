"""Bounds the requests that a server receives at the same time, before it knows their size."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from midrib.server._admission.receiving import CURRENT_RECEIVER, Receipt, ReceiveLimits
from midrib.server._grpc.context import Context
from midrib.server._grpc.errors import abort
from midrib.wire import InvalidInputError, MidribError, UnavailableError

# A stream whose last messages were not larger is read without waiting for room.
_SMALL_MESSAGE_BYTES = 2**22
_MIN_SMALL_MESSAGES = 2

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ReceiveGate:
    """Lets a request be received once there is room for it.

    gRPC receives the request of a unary method before any code of ours runs, and cannot stop. If many are being
    received, further calls are therefore handled as streams of one message, which can wait and be given up.
    """

    def __init__(self, limits: ReceiveLimits) -> None:
        self._limits = limits

    def handler(self, handler: Handler) -> Handler:
        """Return the handler of the call that the current task serves: this one, or one that waits for room."""
        receiver = self._limits.receiver()
        CURRENT_RECEIVER.set(receiver)
        if handler.request_streaming:
            return handler
        task = asyncio.current_task()
        if task is None or not receiver.enter_fixed():
            receiver.receipt = Receipt(receiver.pools)
            return _waiting(handler, receiver.receipt)
        task.add_done_callback(receiver.received)
        return handler


async def read_message(context: Context, receipt: Receipt) -> Any:
    """Return the next message of a stream, or gRPC's EOF, once there is room for it.

    Raises OverloadedError after a long wait for room, UnavailableError if the message is given up because others wait.
    """
    await receipt.enter()
    reading = asyncio.ensure_future(context.read())
    given_up = asyncio.ensure_future(receipt.given_up.wait())
    try:
        await asyncio.wait({reading, given_up}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            return reading.result()
    finally:
        reading.cancel()
        given_up.cancel()
    raise UnavailableError("no request arrived in time while others waited to be received: open another call")


def _waiting(handler: Handler, receipt: Receipt) -> Handler:
    """Return a handler that receives a unary request once there is room."""
    behaviour: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

    async def receive(_requests: Any, context: Context) -> None:
        """Receive the request and answer it; a MidribError becomes the call's status."""
        try:
            request = await read_message(context, receipt)
            if request is grpc.aio.EOF:
                raise InvalidInputError("the call ended without a request: send one message")
            response = await behaviour(request, context)
        except MidribError as error:
            await abort(context, error)
        finally:
            receipt.leave()
        if response is not None:
            await context.write(response)

    return grpc.stream_stream_rpc_method_handler(
        receive,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


class Messages:
    """The messages of a stream, up to the first that is refused.

    gRPC's own iterator keeps each until the next has come, however long a client is silent.
    The first messages, and those that follow a large one, are received only if there is room for one of any size.
    parse: returns the parsed message; raises MidribError if it is refused.
    """

    def __init__(self, context: Context, parse: Callable[[Any], Awaitable[Any]]) -> None:
        self._context = context
        self._parse = parse
        self._receiver = CURRENT_RECEIVER.get()
        self._receipt: Receipt | None = None
        self._small_messages = 0

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Any:
        self.close()  # the message before has been admitted, or refused
        message = await self._read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        size, content = message
        self._small_messages = self._small_messages + 1 if size <= _SMALL_MESSAGE_BYTES else 0
        return await self._parse(content)

    def close(self) -> None:
        """Let others be received."""
        if self._receipt is not None:
            self._receipt.leave()
            self._receipt = None

    async def _read(self) -> Any:
        if self._receiver is None or self._small_messages >= _MIN_SMALL_MESSAGES:
            return await self._context.read()
        self._receipt = Receipt(self._receiver.pools)
        return await read_message(self._context, self._receipt)

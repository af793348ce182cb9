"""A call that another server answers: the bytes of its messages, in both directions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

# The sender's limits hold: the server that answers checks the sizes.
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
# Streams last for seconds. A server without a new call for this time has no call left.
_UNUSED_S: Final = 300.0
# Headers that each connection sets itself, and the one by which Ray chooses an application.
_OWN_HEADERS = frozenset({"application", "content-type", "te", "user-agent"})


class Channels:
    """A connection to each server that has been called within the last minutes: replicas come and go.

    now: a clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._last_use: dict[str, float] = {}

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._channels)

    def to(self, address: str) -> grpc.aio.Channel:
        """Return the connection to a server, "host:port"."""
        self._last_use[address] = self._now()
        if address not in self._channels:
            self._forget_unused()
            self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        return self._channels[address]

    def forget(self, address: str) -> None:
        """Open another connection for the next call. The present one closes after its last call."""
        self._channels.pop(address, None)
        self._last_use.pop(address, None)

    def _forget_unused(self) -> None:
        """Forget the servers without a new call for `_UNUSED_S`: most of them have ended."""
        oldest = self._now() - _UNUSED_S
        for address in [address for address, used in self._last_use.items() if used < oldest]:
            self.forget(address)


async def relay(channel: grpc.aio.Channel, method: str, first: bytes, context: Any) -> None:
    """Pass a call on, and its answers back.

    first: the message that has been read from the context.  context: reads and writes raw bytes.
    Raises AbortError once the error of the other server is sent.
    """
    behaviour: Any = channel.stream_stream(method)
    call = behaviour(_messages(first, context), metadata=_headers(context), timeout=context.time_remaining())
    try:
        async for answer in call:
            await context.write(answer)
    except grpc.aio.AioRpcError as error:
        await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
    finally:
        call.cancel()


async def single_answer(channel: grpc.aio.Channel, method: str, request: bytes, context: Any) -> bytes:
    """Return the answer of another server to a unary call. Raises AioRpcError."""
    behaviour: Any = channel.unary_unary(method)
    answer: bytes = await behaviour(request, metadata=_headers(context), timeout=context.time_remaining())
    return answer


async def _messages(first: bytes, context: Any) -> AsyncIterator[bytes]:
    """Yield the messages of a call."""
    yield first
    while (message := await context.read()) is not grpc.aio.EOF:
        yield message


def _headers(context: Any) -> tuple[tuple[str, str | bytes], ...]:
    """Return the headers that belong to the call, such as its token."""
    headers = tuple(context.invocation_metadata() or ())
    return tuple((key, value) for key, value in headers if key not in _OWN_HEADERS and not key.startswith("grpc-"))

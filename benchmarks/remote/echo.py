"""The limit: a stream of the same bytes through grpc.aio on uvloop, without any computation."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from processes import running

METHOD = "/midrib.benchmark.Echo/Stream"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Echoed:
    """Results of an echo.

    per_s: messages per second of a stream.  cpu_us: microseconds of the client's CPU per message.
    lone_ms: milliseconds of a lone message.
    """

    per_s: float
    cpu_us: float
    lone_ms: float


@contextmanager
def echo_server() -> Iterator[str]:
    """Start a process that answers each message with the requested number of bytes; yield its address."""
    with running([sys.executable, str(Path(__file__))]) as first_line:
        yield first_line()


def echo(address: str, sent: int, received: int, budget_s: float) -> Echoed:
    """Measure messages of `sent` bytes whose answers have `received` bytes."""
    return uvloop.run(_echo(address, received.to_bytes(8, "little") + bytes(max(0, sent - 8)), budget_s))


async def _echo(address: str, message: bytes, budget_s: float) -> Echoed:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        call: Any = channel.stream_stream(METHOD)()
        lone_s: list[float] = []
        until = time.perf_counter() + budget_s
        while len(lone_s) < 20 or time.perf_counter() < until:
            began = time.perf_counter()
            await call.write(message)
            await call.read()
            lone_s.append(time.perf_counter() - began)
        count = max(50, int(budget_s / sorted(lone_s)[len(lone_s) // 2]))
        began, cpu = time.perf_counter(), time.process_time()
        writer = asyncio.create_task(_write(call, message, count))
        for _ in range(count):
            await call.read()
        await writer
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        await call.done_writing()
        await call.read()  # its end: without it, gRPC warns when the loop closes
    return Echoed(count / wall, 1e6 * cpu / count, 1e3 * sorted(lone_s)[len(lone_s) // 2])


async def _write(call: grpc.aio.StreamStreamCall[bytes, bytes], message: bytes, count: int) -> None:
    for _ in range(count):
        await call.write(message)


async def _answer(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    size, reply = -1, b""
    async for request in requests:
        reply_size = int.from_bytes(request[:8], "little")
        if reply_size != size:
            size, reply = reply_size, bytes(reply_size)
        yield reply


async def _serve() -> None:
    server = grpc.aio.server(options=_OPTIONS)
    handler: Any = grpc.stream_stream_rpc_method_handler(_answer)
    service, _, method = METHOD.removeprefix("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)  # noqa: T201 - its parent reads this
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())

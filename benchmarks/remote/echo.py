"""The limit: a stream of the same bytes through grpc.aio on uvloop, without computation."""

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
    """A stream's messages a second and microseconds of the client's CPU for each; a single message's milliseconds."""

    per_s: float
    cpu_us: float
    single_ms: float


@contextmanager
def echo_server() -> Iterator[str]:
    """Yield the address of a process that answers a message with the number of bytes that the message names."""
    with running([sys.executable, str(Path(__file__))]) as first_line:
        yield first_line()


def echo(address: str, sent: int, received: int, budget_s: float) -> Echoed:
    """Return the cost of messages of `sent` bytes that are answered by `received` bytes."""
    return uvloop.run(_echo(address, received.to_bytes(8, "little") + bytes(max(0, sent - 8)), budget_s))


async def _echo(address: str, message: bytes, budget_s: float) -> Echoed:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        call: Any = channel.stream_stream(METHOD)()
        single_s: list[float] = []
        until = time.perf_counter() + budget_s
        while len(single_s) < 20 or time.perf_counter() < until:
            began = time.perf_counter()
            await call.write(message)
            await call.read()
            single_s.append(time.perf_counter() - began)
        count = max(50, int(budget_s / sorted(single_s)[len(single_s) // 2]))
        began, cpu = time.perf_counter(), time.process_time()
        writer = asyncio.create_task(_write(call, message, count))
        for _ in range(count):
            await call.read()
        await writer
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        await call.done_writing()
        await call.read()  # the end of the stream: else gRPC logs that the loop is closed
    return Echoed(count / wall, 1e6 * cpu / count, 1e3 * sorted(single_s)[len(single_s) // 2])


async def _write(call: grpc.aio.StreamStreamCall[bytes, bytes], message: bytes, count: int) -> None:
    for _ in range(count):
        await call.write(message)


async def _answer(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    size, reply = -1, b""
    async for request in requests:
        reply_bytes = int.from_bytes(request[:8], "little")
        if reply_bytes != size:
            size, reply = reply_bytes, bytes(reply_bytes)
        yield reply


async def _serve() -> None:
    server = grpc.aio.server(options=_OPTIONS)
    handler: Any = grpc.stream_stream_rpc_method_handler(_answer)
    service, _, method = METHOD.removeprefix("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)  # noqa: T201 - what its parent reads
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())

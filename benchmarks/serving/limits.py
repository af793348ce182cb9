"""Two measurements of Midrib only: the time until it is ready, and its memory under a flood of clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time

import grpc
from contenders import command, environment
from processes import ServerProcess, free_port, import_seconds
from results import Plan, Results
from works import KEYS, payloads

from clients import CHANNEL, StubCaller
from midrib.remote import AsyncClient
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor

_MODEL = "mlp"
_FLOOD_S = 3.0
_FLOODERS, _FLOOD_ROWS = 256, 64
_DEAF_STREAMS = 8


async def measure_start(plan: Plan, results: Results) -> None:
    """Measure pairs: the time from the command to its `ready`, and that of an interpreter which only imports torch."""
    for _ in range(plan.rounds):
        began = time.monotonic()
        process, _ = await asyncio.to_thread(_start, plan)
        ready_s = time.monotonic() - began
        await asyncio.to_thread(process.stop)
        results.starts.append((ready_s, await asyncio.to_thread(import_seconds, sys.executable, "torch")))


async def measure_memory(plan: Plan, results: Results) -> None:
    """Measure the resident memory of the MLP's server: when it is ready, and at the peak of a flood.

    The buffers that the server's process shares with its worker count once.
    """
    process, address = await asyncio.to_thread(_start, plan)
    try:
        client = AsyncClient(address)
        info = await client.describe(KEYS[_MODEL])
        await client.close()
        process.refresh()
        process.forget_peak()
        ready = process.memory_bytes(peak=False)
        await _flood(address)
        results.memory = {
            "ready": ready,
            "peak": process.memory_bytes(peak=True) - process.repeated_bytes(),
            "after": process.memory_bytes(peak=False) - process.repeated_bytes(),
            "largest_batch": info.max_rows * payloads(_MODEL, 1)[0].nbytes,
        }
    finally:
        await asyncio.to_thread(process.stop)


def _start(plan: Plan) -> tuple[ServerProcess, str]:
    """Start a server with the MLP only; return it, once it is ready, and its address."""
    port = free_port()
    process = ServerProcess(
        command("midrib", port, (_MODEL,), sys.executable),
        plan.logs / "midrib-alone.log",
        environment=environment("midrib"),
        pipes=True,
    )
    for line in process.pipes[1]:
        if json.loads(line)["event"] == "ready":
            return process, f"127.0.0.1:{port}"
    process.stop()
    raise RuntimeError(f"midrib does not start: {process.last_line()}")


async def _flood(address: str) -> None:
    """Flood a server with callers that repeat refused calls at once, and with streams that send and never read."""
    flooders = [asyncio.create_task(_call_again_and_again(address))]
    flooders += [asyncio.create_task(_send_and_never_read(address)) for _ in range(_DEAF_STREAMS)]
    await asyncio.sleep(_FLOOD_S)
    for flooder in flooders:
        flooder.cancel()
    await asyncio.gather(*flooders, return_exceptions=True)


async def _call_again_and_again(address: str) -> None:
    caller = StubCaller(address, _MODEL, payloads(_MODEL, _FLOOD_ROWS))

    async def repeat() -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await caller.call(0)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_FLOODERS):
                group.create_task(repeat())
    finally:
        await caller.close()


async def _send_and_never_read(address: str) -> None:
    tensor = encode_tensor(payloads(_MODEL, _FLOOD_ROWS)[0])
    async with grpc.aio.insecure_channel(address, options=CHANNEL) as channel:
        call = embedding_pb2_grpc.EmbeddingServiceStub(channel).EmbedStream()
        await call.write(embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone=KEYS[_MODEL])))
        number = 0
        while True:
            number += 1
            item = embedding_pb2.Item(id=number, input=embedding_pb2.Input(tensor=tensor))
            await call.write(embedding_pb2.EmbedStreamRequest(item=item))

"""Far more load than capacity: refused with RetryInfo or accepted and answered, in bounded memory.

Capacity is small and the same on every machine: the backbone computes only when the test lets it, one item a batch.
So nothing here is a matter of time. benchmarks/soak/overload.py does the same against the clock.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.server._engine.served_backbone import ServedBackbone
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor

REGISTRY = Registry("overload")
QUEUE = 20
# Batches of one item each that have left the queue: one computes, one is staged.
HANDED_OVER = 2
WIDTH = 1024
MARK = 12345.0
ROUNDS = 20
# What a round lets through, and what it asks for.
CAPACITY, LOAD = 10, 100


class Turnstile(nn.Module):
    """Doubles; each forward pass of a test's row takes a permit. (Warm-up's rows pass.)"""

    permits = threading.Semaphore(0)
    entered = 0

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows[:, 1] == MARK).any()):
            Turnstile.entered += 1
            self.permits.acquire(timeout=60)
        return rows[:, :2] * 2


@REGISTRY(name="turnstile", namespace="test/embedding", input=TensorInput((WIDTH,)))
def load_turnstile() -> tuple[nn.Module, int]:
    return Turnstile(), 2


@pytest.fixture()
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """One row a batch, twenty items in the queue."""
    monkeypatch.setattr(Turnstile, "permits", threading.Semaphore(0))
    monkeypatch.setattr(Turnstile, "entered", 0)
    with serving("turnstile", registry=REGISTRY, max_batch_rows=1, max_queue_items=QUEUE) as running:
        yield running
        Turnstile.permits.release(10_000)


def request(number: int) -> embedding_pb2.EmbedRequest:
    """One row of the number."""
    rows = np.full((1, WIDTH), MARK, np.float32)
    rows[:, 0] = number
    return embedding_pb2.EmbedRequest(backbone="turnstile", input=embedding_pb2.Input(tensor=encode_tensor(rows)))


class Outcomes:
    """What became of the calls, each with a number of its own."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.answered: dict[int, float] = {}
        self.refused: list[status_pb2.Status] = []
        self.codes: set[grpc.StatusCode] = set()

    async def call(self, number: int) -> None:
        try:
            answer = await self._stub.Embed(request(number), timeout=60)
            self.answered[number] = float(decode_tensor(answer.embedding)[0, 0])
        except grpc.aio.AioRpcError as error:
            self.codes.add(error.code())
            details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
            self.refused.append(status_pb2.Status.FromString(details))


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():
            await asyncio.sleep(0.001)


@pytest.fixture()
async def outcomes(server: RunningServer) -> AsyncIterator[Outcomes]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Outcomes(embedding_pb2_grpc.EmbeddingServiceStub(channel))


def retry_after(status: status_pb2.Status) -> float:
    """Seconds, by the status's RetryInfo; 0 where it has none."""
    info = error_details_pb2.RetryInfo()
    found = any(detail.Unpack(info) for detail in status.details)
    return info.retry_delay.ToTimedelta().total_seconds() if found else 0.0


async def test_ten_times_the_capacity(server: RunningServer, outcomes: Outcomes) -> None:
    """Open loop: each round sends its hundred calls, whatever has become of those before, and lets ten through.

    Those that find no room end in their round, while what was accepted still waits: nothing is computed to refuse
    them. So an accepted call has at most the queue before it, and its wait is the queue's length by the service time.
    """
    served = server.server.catalogue.entry("turnstile").ready().served
    calls = await busy(outcomes, served)
    for number in range(ROUNDS):
        calls += await one_round(outcomes, served, first=3 + number * LOAD)
    Turnstile.permits.release(QUEUE)
    await asyncio.gather(*calls)

    assert outcomes.answered == {number: 2.0 * number for number in outcomes.answered}
    assert len(outcomes.answered) == ROUNDS * CAPACITY + QUEUE - CAPACITY + HANDED_OVER == Turnstile.entered
    assert (
        len(outcomes.refused) == ROUNDS * LOAD + HANDED_OVER - len(outcomes.answered) == served.batcher.counts.rejected
    )
    assert outcomes.codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(retry_after(status) > 0 for status in outcomes.refused)
    assert served.idle
    assert server.server.embedder.in_flight.held == 0


async def busy(outcomes: Outcomes, served: ServedBackbone) -> list[asyncio.Task[None]]:
    """Calls that the device is given: whatever comes then waits in the queue."""
    calls = [asyncio.create_task(outcomes.call(1 + index)) for index in range(HANDED_OVER)]
    handed_over = {"accepted": HANDED_OVER, "queued": 0, "entered": 1}
    await until(lambda: seen(served) == handed_over)
    return calls


def seen(served: ServedBackbone) -> dict[str, int]:
    """How far the items have come."""
    batcher = served.batcher
    return {"accepted": batcher.counts.accepted, "queued": batcher.queued_items, "entered": Turnstile.entered}


async def one_round(outcomes: Outcomes, served: ServedBackbone, *, first: int) -> list[asyncio.Task[None]]:
    """Send a hundred calls, see all but those that have room refused, then let ten items through."""
    refused, room, entered = len(outcomes.refused), QUEUE - served.batcher.queued_items, Turnstile.entered
    calls = [asyncio.create_task(outcomes.call(first + index)) for index in range(LOAD)]
    await until(lambda: len(outcomes.refused) == refused + LOAD - room)
    assert served.batcher.queued_items == QUEUE
    Turnstile.permits.release(CAPACITY)
    await until(lambda: Turnstile.entered == entered + CAPACITY and served.batcher.queued_items == QUEUE - CAPACITY)
    return calls


async def test_what_overload_leaves_in_memory_is_bounded(server: RunningServer, outcomes: Outcomes) -> None:
    """Later refusals leave nothing behind that the first did not."""
    served = server.server.catalogue.entry("turnstile").ready().served
    held = await busy(outcomes, served)
    held += [asyncio.create_task(outcomes.call(number)) for number in range(3, QUEUE + 3)]
    await until(lambda: served.batcher.queued_items == QUEUE)
    tracemalloc.start()
    try:
        sizes = [await after_more_refusals(outcomes) for _ in range(3)]
    finally:
        tracemalloc.stop()
    Turnstile.permits.release(QUEUE + HANDED_OVER)
    await asyncio.gather(*held)
    # The requests of each time are 1.2 MiB.
    assert sizes[-1] - sizes[0] < 2**16
    assert len(outcomes.answered) == QUEUE + HANDED_OVER


async def after_more_refusals(outcomes: Outcomes) -> int:
    """The bytes that are allocated after three hundred of them."""
    await asyncio.gather(*(outcomes.call(number) for number in range(1000, 1300)))
    assert len(outcomes.refused) == 300
    outcomes.refused.clear()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    return size


def test_a_stream_beyond_capacity_waits_and_loses_nothing(server: RunningServer) -> None:
    """A stream is not refused: it is not read from, and all its items are answered in the end."""
    total = 300

    def talk() -> Iterator[embedding_pb2.EmbedStreamRequest]:
        yield embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="turnstile"))
        for number in range(1, total + 1):
            item = embedding_pb2.Item(id=number, input=request(number).input)
            yield embedding_pb2.EmbedStreamRequest(item=item)

    served = server.server.catalogue.entry("turnstile").ready().served
    deepest, answers = 0, {}
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        stream = stub.EmbedStream(talk(), timeout=120)
        assert next(stream).WhichOneof("message") == "opened"
        for _ in range(total):
            Turnstile.permits.release()
            result = next(stream).result
            deepest = max(deepest, served.batcher.queued_items)
            answers[result.id] = float(decode_tensor(result.embedding)[0, 0])
    assert answers == {number: 2.0 * number for number in range(1, total + 1)}
    assert deepest <= QUEUE
    assert served.batcher.counts.rejected == 0

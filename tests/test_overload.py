"""Far more load than capacity: each call is answered, or refused with RetryInfo, in bounded memory.

The capacity is the same on every machine: the backbone computes one item per batch, and only when the test permits it.
So no test depends on time. benchmarks/soak/overload.py measures the same with a clock.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.server._admission.tokens import Scope, new_token
from midrib.server._engine.served_backbone import ServedBackbone
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor

REGISTRY = Registry("overload")
QUEUE = 20
# Items that have left the queue: one computes, one is staged.
HANDED_OVER = 2
WIDTH = 1024
MARK = 12345.0
ROUNDS = 20
# The calls of a round that are computed, and all calls of a round.
CAPACITY, LOAD = 10, 100
TOKEN = new_token("tenant", [Scope.EMBED, Scope.READ])
BEARER = [("authorization", f"Bearer {TOKEN[0]}")]
# Each channel has its own connection, so that the kernel divides them among the front processes.
CHANNELS = 6
SEPARATE = [("grpc.use_local_subchannel_pool", 1)]


class Turnstile(nn.Module):
    """Doubles its rows. A forward pass of marked rows waits for a permit; rows of the warm-up have no mark."""

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


@pytest.fixture(params=[("grpcio", 1), ("asyncio", 1), ("asyncio", 3)], ids=["grpcio", "asyncio", "3-fronts"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RunningServer]:
    """A server with one row per batch and at most 20 items of its only token in the queue."""
    front, fronts = request.param
    monkeypatch.setattr(Turnstile, "permits", threading.Semaphore(0))
    monkeypatch.setattr(Turnstile, "entered", 0)
    (tmp_path / "tokens.toml").write_text(TOKEN[1])
    limits: dict[str, Any] = {"max_batch_rows": 1, "max_queue_items": QUEUE, "tokens": tmp_path / "tokens.toml"}
    with serving("turnstile", registry=REGISTRY, front=front, fronts=fronts, **limits) as running:
        yield running
        Turnstile.permits.release(10_000)


def request(number: int) -> embedding_pb2.EmbedRequest:
    """Return a request for one marked row that holds the number."""
    rows = np.full((1, WIDTH), MARK, np.float32)
    rows[:, 0] = number
    return embedding_pb2.EmbedRequest(backbone="turnstile", input=embedding_pb2.Input(tensor=encode_tensor(rows)))


class Outcomes:
    """The outcomes of numbered calls, which several connections share.

    answered: the doubled number by number.  refused, codes: the statuses of the other calls.
    """

    def __init__(self, stubs: Sequence[Any]) -> None:
        self._stubs = stubs
        self.answered: dict[int, float] = {}
        self.refused: list[status_pb2.Status] = []
        self.codes: set[grpc.StatusCode] = set()

    async def call(self, number: int) -> None:
        """Embed the row of a number, and note the outcome."""
        try:
            stub = self._stubs[number % len(self._stubs)]
            answer = await stub.Embed(request(number), timeout=60, metadata=BEARER)
            self.answered[number] = float(decode_tensor(answer.embedding)[0, 0])
        except grpc.aio.AioRpcError as error:
            self.codes.add(error.code())
            details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
            self.refused.append(status_pb2.Status.FromString(details))


async def until(reached: Callable[[], bool]) -> None:
    """Wait until a condition holds, for at most a minute."""
    async with asyncio.timeout(60):
        while not reached():
            await asyncio.sleep(0.001)


@pytest.fixture()
async def outcomes(server: RunningServer) -> AsyncIterator[Outcomes]:
    async with AsyncExitStack() as stack:
        new = partial(grpc.aio.insecure_channel, server.address, options=SEPARATE)
        channels = [await stack.enter_async_context(new()) for _ in range(CHANNELS)]
        yield Outcomes([embedding_pb2_grpc.EmbeddingServiceStub(channel) for channel in channels])


def retry_after(status: status_pb2.Status) -> float:
    """Return the seconds of a status's RetryInfo; 0 if it has none."""
    info = error_details_pb2.RetryInfo()
    has_info = any(detail.Unpack(info) for detail in status.details)
    return info.retry_delay.ToTimedelta().total_seconds() if has_info else 0.0


async def test_ten_times_the_capacity(server: RunningServer, outcomes: Outcomes) -> None:
    """Each round sends 100 calls without waiting for earlier ones, and permits 10 forward passes.

    A call without room is refused in its round, while accepted calls still wait. So an accepted call waits for at most
    the items of a full queue.
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
    """Occupy the device with calls, so that later calls wait in the queue; return them."""
    calls = [asyncio.create_task(outcomes.call(1 + index)) for index in range(HANDED_OVER)]
    handed_over = {"accepted": HANDED_OVER, "queued": 0, "entered": 1}
    await until(lambda: progress(served) == handed_over)
    return calls


def progress(served: ServedBackbone) -> dict[str, int]:
    """Return how many items were accepted, wait, and entered the module."""
    batcher = served.batcher
    return {"accepted": batcher.counts.accepted, "queued": batcher.queued_items, "entered": Turnstile.entered}


async def one_round(outcomes: Outcomes, served: ServedBackbone, *, first: int) -> list[asyncio.Task[None]]:
    """Send 100 calls, wait until those without room are refused, then permit 10 forward passes; return the calls."""
    refused, room, entered = len(outcomes.refused), QUEUE - served.batcher.queued_items, Turnstile.entered
    calls = [asyncio.create_task(outcomes.call(first + index)) for index in range(LOAD)]
    await until(lambda: len(outcomes.refused) == refused + LOAD - room)
    assert served.batcher.queued_items == QUEUE
    Turnstile.permits.release(CAPACITY)
    await until(lambda: Turnstile.entered == entered + CAPACITY and served.batcher.queued_items == QUEUE - CAPACITY)
    return calls


async def test_memory_after_overload_is_bounded(server: RunningServer, outcomes: Outcomes) -> None:
    """Further refusals do not increase the memory."""
    served = server.server.catalogue.entry("turnstile").ready().served
    waiting = await busy(outcomes, served)
    waiting += [asyncio.create_task(outcomes.call(number)) for number in range(3, QUEUE + 3)]
    await until(lambda: served.batcher.queued_items == QUEUE)
    tasks = server.run(number_of_tasks(), timeout=20)
    tracemalloc.start()
    try:
        sizes = [await after_more_refusals(server, outcomes, tasks) for _ in range(3)]
    finally:
        tracemalloc.stop()
    Turnstile.permits.release(QUEUE + HANDED_OVER)
    await asyncio.gather(*waiting)
    # The requests of each repetition have 1.2 MiB.
    assert sizes[-1] - sizes[0] < 2**16
    assert len(outcomes.answered) == QUEUE + HANDED_OVER


async def number_of_tasks() -> int:
    return len(asyncio.all_tasks())


async def after_more_refusals(server: RunningServer, outcomes: Outcomes, tasks: int) -> int:
    """Send 300 calls that are refused; return the allocated bytes once the server has ended their tasks.

    tasks: the number of the others.
    """
    await asyncio.gather(*(outcomes.call(number) for number in range(1000, 1300)))
    assert len(outcomes.refused) == 300
    outcomes.refused.clear()
    await until(lambda: server.run(number_of_tasks(), timeout=20) <= tasks)
    await asyncio.sleep(0)  # the event loop drops the tasks of this client
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    return size


def test_a_stream_beyond_capacity_waits_and_loses_nothing(server: RunningServer) -> None:
    """The server stops reading the stream, and answers all its items in the end."""
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
        stream = stub.EmbedStream(talk(), timeout=120, metadata=BEARER)
        assert next(stream).WhichOneof("message") == "opened"
        for _ in range(total):
            Turnstile.permits.release()
            result = next(stream).result
            deepest = max(deepest, served.batcher.queued_items)
            answers[result.id] = float(decode_tensor(result.embedding)[0, 0])
    assert answers == {number: 2.0 * number for number in range(1, total + 1)}
    assert deepest <= QUEUE
    assert served.batcher.counts.rejected == 0

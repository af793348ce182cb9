"""An item that is larger than a batch is computed in parts and answered as one; other items get in between."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

from midrib.registry import TensorInput
from midrib.server._engine.batch_limits import BatchBudget, BatchLimits
from midrib.server._engine.batcher import Batcher
from midrib.server._engine.compute import Arrays
from midrib.server._engine.description import ServedDescription
from midrib.server._engine.item import Item, Outcome, Priority
from midrib.server._engine.served_backbone import ServedBackbone
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, DeadlineExceededError, InternalError, decode_tensor, encode_tensor

DESCRIPTION = ServedDescription("test/embedding/parts", "0" * 64, 1, TensorInput((1,)), "cpu", "float32", "")
LIMITS = BatchLimits(max_rows=4, max_cost=1000, max_queue_items=100, max_queue_cost=10_000)


def item(
    rows: int,
    *,
    flow: object = None,
    priority: Priority = Priority.INTERACTIVE,
    deadline: float | None = None,
) -> Item:
    """Rows of one element each, with the values 0, 1, 2 ..."""
    values = np.arange(rows, dtype=np.float32)[:, None]
    return Item((values,), "a", rows, flow=flow, priority=priority, deadline=deadline)


def values_of(batch: Sequence[Item]) -> list[list[float]]:
    return [each.arrays[0][:, 0].tolist() for each in batch]


def settle(batch: Sequence[Item]) -> None:
    for each in batch:
        each.done.set_result(Outcome(each.arrays[0] * 2, queue_s=1.0, compute_s=0.5))


async def test_a_large_item_leaves_in_parts_and_is_done_with_all_rows() -> None:
    """Its caller sees one outcome, with the rows in their order."""
    batcher, large = Batcher(LIMITS), item(9)
    batcher.submit(large)
    batches = [await batcher.take() for _ in range(3)]
    assert [values_of(batch) for batch in batches] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8]]]
    for batch in reversed(batches):
        settle(batch)
    outcome = await large.done
    assert outcome.rows[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert (batcher.queued_items, batcher.queued_cost, batcher.counts.accepted) == (0, 0, 3)


async def test_a_small_item_of_another_flow_leaves_before_the_rest_of_a_large_one() -> None:
    """It was queued while the first part computed."""
    batcher = Batcher(LIMITS)
    batcher.submit(item(1000, flow="large"))
    await batcher.take()
    small = item(1, flow="small")
    batcher.submit(small)
    batch = await batcher.take()
    assert (batch[0], values_of(batch)) == (small, [[0], [4, 5, 6]])


async def test_a_small_item_of_the_same_flow_waits_for_one_more_part() -> None:
    """Callers who share a token or a proxy's connection are one flow: the thousand rows of one do not shut out all."""
    batcher = Batcher(LIMITS)
    batcher.submit(item(1000))
    await batcher.take()
    small = item(1)
    batcher.submit(small)
    assert (values_of(await batcher.take()), small in await batcher.take()) == ([[4, 5, 6, 7]], True)


async def test_a_higher_priority_leaves_before_the_rest_of_a_bulk_item() -> None:
    """Sixteen interactive items of one row leave for each row of the bulk item."""
    batcher = Batcher(BatchLimits(max_rows=1, max_cost=1000, max_queue_items=100, max_queue_cost=10_000))
    batcher.submit(item(10, flow="bulk", priority=Priority.BULK))
    await batcher.take()
    for _ in range(16):
        batcher.submit(item(1, flow="interactive"))
    flows = [(await batcher.take())[0].flow for _ in range(17)]
    assert (flows[:15], flows.count("bulk")) == (["interactive"] * 15, 1)


async def test_the_rest_of_an_item_whose_caller_left_is_not_computed() -> None:
    """It leaves the queue at once."""
    batcher, large = Batcher(LIMITS), item(1000)
    batcher.submit(large)
    first = await batcher.take()
    large.done.cancel()
    await asyncio.sleep(0)
    settle(first)
    assert (batcher.queued_items, batcher.queued_cost, batcher.counts.cancelled) == (0, 0, 1)


async def test_the_rest_of_an_item_whose_deadline_has_passed_is_not_computed() -> None:
    """Its caller gets DeadlineExceededError."""
    now = 0.0
    batcher, large = Batcher(LIMITS, clock=lambda: now), item(1000, deadline=1.0)
    batcher.submit(large)
    await batcher.take()
    now = 2.0
    batcher.submit(item(1))
    assert values_of(await batcher.take()) == [[0]]
    with pytest.raises(DeadlineExceededError, match="the deadline passed"):
        await large.done


async def test_an_item_that_fits_into_a_batch_is_not_cut() -> None:
    """Parts cost a copy, so it waits for the next batch."""
    batcher = Batcher(LIMITS)
    first, second = item(3), item(3)
    batcher.submit(first)
    batcher.submit(second)
    assert [await batcher.take(), await batcher.take()] == [[first], [second]]


@pytest.mark.parametrize(
    ("batches", "rows"),
    [
        pytest.param([], 16, id="nothing measured yet"),
        pytest.param([(10, 0.25)], 10, id="25 ms a row"),
        pytest.param([(10, 10.0)], 4, id="1 s a row"),
        pytest.param([(100, 0.001)], 1000, id="as many as the limits allow"),
        pytest.param([(1, 1.0)] + [(10, 0.25)] * 30, 9, id="a slow batch is forgotten"),
    ],
)
def test_a_batch_computes_for_a_quarter_of_a_second(batches: list[tuple[int, float]], rows: int) -> None:
    """By the estimate of earlier batches; four rows are always computed together."""
    budget = BatchBudget(BatchLimits(max_rows=1000, max_cost=10_000, max_queue_items=1, max_queue_cost=1))
    for cost, compute_s in batches:
        budget.add(cost, compute_s)
    assert (budget.rows_beside(0, 0, 1), budget.is_full(rows, rows)) == (rows, True)


class Squares:
    """A compute that squares its rows and fails on the value 13; it is its own staged and launched batch."""

    depth = 1
    ready = True

    def __init__(self) -> None:
        self.batch: Sequence[Arrays] = ()

    def stage(self, batch: Sequence[Arrays]) -> Squares:
        self.batch = batch
        return self

    def launch(self) -> Squares:
        if any(bool((rows == 13).any()) for (rows,) in self.batch):
            raise RuntimeError("thirteen")
        return self

    def finish(self) -> Sequence[Array]:
        return [rows**2 for (rows,) in self.batch]

    def close(self) -> None:
        """Nothing to free."""


@pytest.mark.parametrize("replicas", [1, 2])
async def test_replicas_compute_the_parts_of_an_item(replicas: int) -> None:
    """Each of them takes parts of it."""
    served = ServedBackbone(DESCRIPTION, [Squares] * replicas, LIMITS)
    large = item(11)
    served.batcher.submit(large)
    await served.start()
    await served.drain()
    assert (await large.done).rows[:, 0].tolist() == [number**2 for number in range(11)]
    assert served.idle


async def test_a_part_that_fails_fails_its_item() -> None:
    """The other items get their rows, and every item is counted."""
    served = ServedBackbone(DESCRIPTION, [Squares], LIMITS)
    large, small = item(40, flow="large"), item(2, flow="small")
    served.batcher.submit(large)
    served.batcher.submit(small)
    await served.start()
    await served.drain()
    assert (await small.done).rows[:, 0].tolist() == [0, 1]
    with pytest.raises(InternalError, match="failed on this item"):
        await large.done
    assert served.idle


@pytest.fixture(params=["thread", "process"])
def slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """Serves a backbone that computes a row in 10 ms."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    registry = importlib.import_module("slow_rows").REGISTRY
    with serving("slow", registry=registry, workers=request.param, warm_up_s=0.0) as running:
        yield running
    del sys.modules["slow_rows"]


def embed_request(rows: int) -> embedding_pb2.EmbedRequest:
    tensor = encode_tensor(np.arange(2 * rows, dtype=np.float32).reshape(rows, 2))
    return embedding_pb2.EmbedRequest(backbone="slow", input=embedding_pb2.Input(tensor=tensor))


@pytest.mark.parametrize("leave", [True, False], ids=["after the large call's caller has left", "beside a large call"])
def test_a_call_of_one_row_does_not_wait_for_a_large_call(slow: RunningServer, leave: bool) -> None:
    """Eight hundred rows take 8 s; a call of one row is answered within a few batches of 0.1 s."""
    with grpc.insecure_channel(slow.address) as channel:
        embed: Callable[..., embedding_pb2.EmbedResponse] = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
        large = embed.future(embed_request(800), timeout=60)  # type: ignore[attr-defined] # gRPC's callables have it
        embed(embed_request(1), timeout=20)
        if leave:
            large.cancel()
        began = time.monotonic()
        reply = embed(embed_request(1), timeout=20)
        took_s = time.monotonic() - began
        large.cancel()
    assert decode_tensor(reply.embedding, field="embedding").tolist() == [[0, 1]]
    assert took_s < 2

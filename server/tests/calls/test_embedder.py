"""The steps of an embedding, and the quota that an item holds from `accept` until `release`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from midrib.registry import Registry
from midrib.server._admission.quotas import Quota
from midrib.server._calls.embedder import Embedded, RequestEmbedder, StreamQuota
from midrib.server._calls.requests import Caller
from midrib.server.testing import RunningServer, serving
from midrib.v1 import embedding_pb2
from midrib.wire import (
    BackboneNotFoundError,
    InvalidInputError,
    LimitExceededError,
    OverloadedError,
    RevisionMismatchError,
    encode_tensor,
)

ROWS = np.array([[1, 2], [3, 4]], np.float32)
ITEM_BYTES = 2 * ROWS.nbytes  # gate returns as many features as it gets
CALLER = Caller("flow", None)
STREAM_CALLER = Caller("stream", None, waits_for_room=True)
OPEN = embedding_pb2.Open(backbone="gate")


@pytest.fixture()
def embedder(server: RunningServer) -> RequestEmbedder:
    return server.server.embedder


def test_an_accepted_item_holds_its_bytes_until_it_is_released(
    server: RunningServer, embedder: RequestEmbedder
) -> None:
    """Its input and its embedding count, also while the answer is written."""

    async def steps() -> tuple[list[int], Embedded]:
        item = await embedder.open(OPEN, CALLER).accept(ROWS)
        amounts = [embedder.in_flight.held]
        embedded = await item.embed()
        amounts.append(embedder.in_flight.held)
        item.release()
        return [*amounts, embedder.in_flight.held], embedded

    amounts, embedded = server.run(steps(), timeout=20)
    assert amounts == [ITEM_BYTES, ITEM_BYTES, 0]
    np.testing.assert_array_equal(embedded.features, 2 * ROWS)


def test_an_item_does_not_keep_its_input_once_it_is_computed(server: RunningServer, embedder: RequestEmbedder) -> None:
    """Its answer may wait for a client that does not read."""

    async def steps() -> tuple[bool, bool]:
        rows = ROWS.copy()
        kept = weakref.ref(rows)
        item = await embedder.open(OPEN, CALLER).accept(rows)
        del rows
        computed = await item.queue()
        before = kept() is not None
        outcome = await computed
        item.embedded(outcome)
        del computed
        other = await embedder.open(OPEN, CALLER).accept(ROWS)  # the batch of the first has been left then
        await other.embed()
        other.release()
        remains = kept() is not None
        item.release()
        return before, remains

    assert server.run(steps(), timeout=20) == (True, False)


def test_the_items_of_one_backbone_hold_a_few_of_its_largest_at_most(
    server: RunningServer, embedder: RequestEmbedder
) -> None:
    """Four items of 1024 rows with two features in and out, and 8 MiB: a flood of small inputs stays small."""

    async def steps() -> int:
        quota = embedder.quota_of(embedder.catalogue.entry("gate").ready())
        other_share = quota.share("others")
        other_share.acquire_nowait(quota.room)
        try:
            await embedder.open(OPEN, CALLER).accept(ROWS)
        finally:
            other_share.release(quota.room)
        return quota.limit

    with pytest.raises(OverloadedError, match=r"bytes of backbone '.*gate' are in flight"):
        server.run(steps(), timeout=20)
    quota = embedder.quota_of(embedder.catalogue.entry("gate").ready())
    assert (quota.held, quota.limit) == (0, 4 * 1024 * 2 * ROWS[0].nbytes + 8 * 2**20)


def test_an_item_of_a_stream_counts_in_the_quota_of_its_stream_too(
    server: RunningServer, embedder: RequestEmbedder
) -> None:
    """Both amounts are released together."""
    stream = StreamQuota(Quota(8), Quota(2**20))

    async def steps() -> list[tuple[int, int]]:
        item = await embedder.open(OPEN, STREAM_CALLER).accept(ROWS, stream)
        amounts = [(stream.items.held, stream.bytes.held)]
        item.release()
        return [*amounts, (stream.items.held, stream.bytes.held)]

    assert server.run(steps(), timeout=20) == [(1, ITEM_BYTES), (0, 0)]


def test_a_failed_item_releases_its_bytes(server: RunningServer, embedder: RequestEmbedder) -> None:
    """The caller of `embed` has nothing to release then."""

    async def steps() -> None:
        item = await embedder.open(OPEN, CALLER).accept(ROWS[:, :1])
        await item.embed()

    with pytest.raises(InvalidInputError, match=r"takes \[rows, 2\]"):
        server.run(steps(), timeout=20)
    assert embedder.in_flight.held == 0


def test_a_call_without_room_is_refused_at_once(server: RunningServer, embedder: RequestEmbedder) -> None:
    """A unary call does not wait, and holds nothing."""

    async def steps() -> None:
        call = embedder.open(OPEN, CALLER)
        await call.accept(ROWS, StreamQuota(Quota(8), Quota(2**20)))

    room, other_share = embedder.in_flight.room, embedder.in_flight.share("others")
    other_share.acquire_nowait(room)
    with pytest.raises(OverloadedError, match=f"{room} bytes are in flight and {ITEM_BYTES} more"):
        server.run(steps(), timeout=20)
    other_share.release(room)
    assert embedder.in_flight.held == 0


@pytest.mark.parametrize(
    ("opening", "error", "words"),
    [
        pytest.param({"backbone": "gat"}, BackboneNotFoundError, "did you mean", id="unknown backbone"),
        pytest.param({"backbone": "gate", "revision": "0"}, RevisionMismatchError, "connect again", id="revision"),
        pytest.param(
            {"backbone": "gate", "options": embedding_pb2.Options(dimensions=3)},
            InvalidInputError,
            r"this backbone has 1\.\.2",
            id="options",
        ),
    ],
)
def test_opening_checks_the_call_before_it_reads_an_input(
    embedder: RequestEmbedder, opening: dict[str, Any], error: type[Exception], words: str
) -> None:
    """A stream checks this once, a unary call each time."""
    with pytest.raises(error, match=words):
        embedder.open(embedding_pb2.Open(**opening), CALLER)


def test_no_rows_are_answered_without_a_device(server: RunningServer, embedder: RequestEmbedder) -> None:
    """The embedding of no rows is an array [0, num_features]."""
    request = embedding_pb2.EmbedRequest(
        backbone="gate", input=embedding_pb2.Input(tensor=encode_tensor(np.empty((0, 2), np.float32)))
    )
    assert server.run(embedder.embed(request, CALLER), timeout=20).features.shape == (0, 2)


def test_a_reply_larger_than_a_message_is_refused_before_it_is_computed(
    server: RunningServer, embedder: RequestEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how many bytes it would have."""

    async def steps() -> None:
        call = embedder.open(OPEN, CALLER)
        monkeypatch.setattr(call, "max_reply_bytes", 512)
        await (await call.accept(ROWS)).embed()

    running: Coroutine[Any, Any, None] = steps()
    with pytest.raises(LimitExceededError, match="the embedding of 2 rows has 16 bytes, a message carries at most 0"):
        server.run(running, timeout=20)


def test_the_gradient_has_the_dtype_of_the_input(server: RunningServer, embedder: RequestEmbedder) -> None:
    """The gate doubles its rows, so the gradient doubles that of the embedding."""
    request = embedding_pb2.BackwardRequest(
        backbone="gate", input=encode_tensor(ROWS.astype(np.float16)), grad_embedding=encode_tensor(ROWS)
    )

    async def steps() -> np.ndarray[Any, Any]:
        gradient, reservation = await embedder.gradient_held(request, CALLER)
        reservation.release()
        return gradient.features

    features = server.run(steps(), timeout=20)
    assert (features.dtype, features.tolist()) == (np.float16, (2 * ROWS).tolist())


class CancellingThreads(ThreadPoolExecutor):
    """Threads that cancel a task as it begins its work number `cancels_at`."""

    def __init__(self, cancels_at: int) -> None:
        super().__init__()
        self.task: asyncio.Task[Any]
        self._rest = cancels_at

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._rest -= 1
        if not self._rest:
            self.task.cancel()
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("cancels_at", [1, 2, 3])
def test_a_large_gradient_whose_caller_leaves_releases_its_bytes(test_registry: Registry, cancels_at: int) -> None:
    """In each of its steps in a thread: reading, forming the gradient, and converting it to the dtype of the input."""
    rows = np.ones((2**19, 2), np.float32)
    request = embedding_pb2.BackwardRequest(
        backbone="gate", input=encode_tensor(rows), grad_embedding=encode_tensor(rows)
    )

    async def steps(embedder: RequestEmbedder) -> tuple[bool, int]:
        threads = CancellingThreads(cancels_at)
        asyncio.get_running_loop().set_default_executor(threads)
        threads.task = asyncio.create_task(embedder.gradient_held(request, CALLER))
        await asyncio.wait({threads.task})
        return threads.task.cancelled(), embedder.in_flight.held

    with serving("gate", registry=test_registry, max_batch_rows=2**19) as server:
        assert server.run(steps(server.server.embedder), timeout=20) == (True, 0)

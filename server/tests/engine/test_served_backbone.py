"""A served backbone whose replica breaks its contract: no item gets the rows of another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from midrib.registry import TensorInput
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.compute import Arrays
from midrib.server._engine.description import ServedDescription
from midrib.server._engine.item import Item, Outcome
from midrib.server._engine.served_backbone import ServedBackbone
from midrib.wire import Array, InternalError

DESCRIPTION = ServedDescription("test/embedding/wrong", "0" * 64, 2, TensorInput((2,)), "cpu", "float32", "")
LIMITS = BatchLimits(max_rows=64, max_cost=10_000, max_queue_items=1000, max_queue_cost=1_000_000)


class Returning:
    """A compute whose results are a function of the batch; it is its own staged and launched batch."""

    depth = 1
    ready = True

    def __init__(self, results: Callable[[Sequence[Arrays]], Sequence[Array]]) -> None:
        self.results = results
        self.batch: Sequence[Arrays] = ()

    def stage(self, batch: Sequence[Arrays]) -> Returning:
        self.batch = batch
        return self

    def launch(self) -> Returning:
        return self

    def finish(self) -> Sequence[Array]:
        return self.results(self.batch)

    def close(self) -> None:
        """Nothing to free."""


def wrong_if_13(wrong: Array) -> Callable[[Sequence[Arrays]], Sequence[Array]]:
    return lambda batch: [wrong if bool((rows == 13).any()) else rows for (rows,) in batch]


async def outcomes(results: Callable[[Sequence[Arrays]], Sequence[Array]], values: Sequence[float]) -> list[object]:
    """The outcome or the error of items of one row each, which leave in one batch."""
    served = ServedBackbone(DESCRIPTION, [lambda: Returning(results)], LIMITS)
    items = [Item((np.full((1, 2), value, np.float32),), bucket="a", cost=2) for value in values]
    for item in items:
        served.batcher.submit(item)
    await served.start()
    await served.drain()
    return [item.done.exception() or item.done.result() for item in items]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(np.zeros((0, 2), np.float32), id="rows lost"),
        pytest.param(np.zeros((2, 2), np.float32), id="rows added"),
        pytest.param(np.zeros((1, 3), np.float32), id="another width"),
        pytest.param(np.zeros((1, 2), np.int64), id="integers"),
    ],
)
async def test_rows_that_break_the_contract_are_an_error_of_their_items_alone(wrong: Array) -> None:
    """The other items of the batch get their rows."""
    good, bad, last = await outcomes(wrong_if_13(wrong), [1, 13, 3])
    assert isinstance(bad, InternalError)
    assert [outcome.rows.tolist() for outcome in (good, last) if isinstance(outcome, Outcome)] == [[[1, 1]], [[3, 3]]]


async def test_a_batch_with_too_few_results_fails_as_a_whole(caplog: pytest.LogCaptureFixture) -> None:
    """No result can be assigned to an item then, and the log says so once."""
    with caplog.at_level(logging.ERROR):
        failed = await outcomes(lambda batch: [rows for (rows,) in batch[1:]], [1, 2, 3])
    assert [type(outcome) for outcome in failed] == [InternalError] * 3
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1

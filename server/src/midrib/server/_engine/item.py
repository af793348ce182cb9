"""Items, their parts and their outcomes. No torch, no grpc."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from midrib.wire import Array

CURRENT_TRACE: ContextVar[Any] = ContextVar("CURRENT_TRACE", default=None)
"""The span of the call that is being served; None if it is not traced."""


class Priority(IntEnum):
    """The share of a busy device that an item's client gets, relative to the others."""

    BULK = 1
    TRAINING = 4
    INTERACTIVE = 16


class Outcome(NamedTuple):
    """The result of one item.

    rows: [rows, ...], the item's rows of its batch.  queue_s, compute_s: the seconds that it waited and computed.
    """

    rows: Array
    queue_s: float
    compute_s: float


class Parts:
    """Settles an item once every item that was cut from it is done: with all rows, or with the first error.

    done: the item's future.
    """

    def __init__(self, done: asyncio.Future[Outcome]) -> None:
        self._done = done
        self._outcomes: dict[int, Outcome] = {}
        self._count = 0
        self._complete = False

    def add(self, *, last: bool) -> asyncio.Future[Outcome]:
        """Return the future of the next part."""
        part: asyncio.Future[Outcome] = self._done.get_loop().create_future()
        part.add_done_callback(partial(self._settle, self._count))
        self._count += 1
        self._complete = last
        return part

    def _settle(self, index: int, part: asyncio.Future[Outcome]) -> None:
        error = part.exception()
        if self._done.done():  # the caller has left, or another part has failed
            self._outcomes.clear()
        elif error is not None:
            self._done.set_exception(error)
        else:
            self._outcomes[index] = part.result()
            if self._complete and len(self._outcomes) == self._count:
                self._done.set_result(_joined([self._outcomes[index] for index in range(self._count)]))


def _joined(parts: list[Outcome]) -> Outcome:
    compute_s = sum(part.compute_s for part in parts)
    total_s = max(part.queue_s + part.compute_s for part in parts)
    return Outcome(np.concatenate([part.rows for part in parts]), max(0.0, total_s - compute_s), compute_s)


@dataclass(slots=True, eq=False)
class Item:
    """One or more rows that stay together through the engine.

    arrays: one for an embedding ([rows, ...]), two for a gradient (the input and the embedding's gradient).
    bucket: items of one bucket may share a batch.  cost: rows x elements, padding included.
    flow: the client; a busy device is shared between flows.
    deadline, arrived: on the batcher's clock. No caller waits for the item after its deadline.
    trace: the span of its call; None if nothing is traced.  rows: the number of rows.
    queued: whether it is in the queue of a batcher.  parts: of an item larger than a batch, once the first is taken.
    """

    arrays: tuple[Array, ...]
    bucket: Hashable
    cost: int
    flow: Hashable = None
    priority: Priority = Priority.INTERACTIVE
    deadline: float | None = None
    arrived: float = 0.0
    trace: Any = None
    done: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    rows: int = field(init=False)
    queued: bool = field(init=False, default=False)
    parts: Parts | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.rows = len(self.arrays[0])

    @property
    def row_cost(self) -> int:
        """The cost of one row."""
        return max(1, self.cost // self.rows)

    def cut(self, rows: int) -> Item:
        """Return an item of the first `rows` rows, [rows, ...]; this one keeps the others.

        This item is done once it has no rows left, and all items that were cut from it are done.
        """
        self.parts = self.parts or Parts(self.done)
        arrays, cost = tuple(array[:rows] for array in self.arrays), self.cost * rows // self.rows
        self.arrays = tuple(array[rows:] for array in self.arrays)
        self.rows -= rows
        self.cost -= cost
        return replace(self, arrays=arrays, cost=cost, done=self.parts.add(last=not self.rows))


def settle(future: asyncio.Future[Any], result: object) -> None:
    """Set the result of a future, or its exception, unless it is done because its caller has left."""
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


@dataclass
class BatcherCounts:
    """The number of items that were accepted, refused, or left the queue without being computed.

    Each part of an item that is cut counts as an item.
    """

    accepted: int = 0
    rejected: int = 0
    cancelled: int = 0
    expired: int = 0

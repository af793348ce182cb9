"""What the engine passes along: items in, outcomes out. No torch, no grpc."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from midrib.wire import Array

CURRENT_TRACE: ContextVar[Any] = ContextVar("CURRENT_TRACE", default=None)
"""The span of the call that is being served; None where nothing is traced."""


class Priority(IntEnum):
    """The share of a busy device that an item's client gets, relative to the others."""

    BULK = 1
    TRAINING = 4
    INTERACTIVE = 16


class Outcome(NamedTuple):
    """What came of one item.

    rows: [rows, ...], this item's rows of its batch.  queue_s, compute_s: seconds waited and computed.
    """

    rows: Array
    queue_s: float
    compute_s: float


@dataclass(slots=True, eq=False)
class Item:
    """One or more rows that stay together through the engine.

    arrays: one for an embedding ([rows, ...]), two for a gradient (the input and the embedding's gradient).
    bucket: items of one bucket may share a batch.  cost: rows x elements, padding included.
    flow: whose item it is; a busy device is shared out between flows.
    deadline: on the batcher's clock, after which nobody waits for it.
    trace: the span of its call; None if nothing is traced.  rows: the number of rows.
    queued: whether it is in the queue of a batcher.
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

    def __post_init__(self) -> None:
        self.rows = len(self.arrays[0])


@dataclass
class BatcherCounts:
    """The number of items that were accepted, refused, or left the queue without being computed."""

    accepted: int = 0
    rejected: int = 0
    cancelled: int = 0
    expired: int = 0

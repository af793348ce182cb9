"""The batches of one replica, and the parts in which they are computed again after a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from midrib.server._engine.compute import Arrays, BatchReport
from midrib.server._engine.item import settle
from midrib.server._worker.process import WorkerDiedError
from midrib.wire import Array

# An item is refused after this number of deaths of workers that computed nothing else.
MAX_ITEM_DEATHS = 2
# After this number of deaths by one batch, its other items are left to their callers: each death costs the start of a
# process.
MAX_BATCH_DEATHS = 8


@dataclass(slots=True, eq=False)
class Batch:
    """A batch that the engine submitted.

    done: its report.  deaths: the number of workers that died while they computed a part of it.
    started, finished: on time.monotonic; of the first part, and of the last.
    """

    items: Sequence[Arrays]
    done: asyncio.Future[BatchReport]
    deaths: int = 0
    staging_s: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    results: list[Array | Exception | None] = field(init=False)
    _missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.results = [None] * len(self.items)
        self._missing = len(self.items)

    @property
    def complete(self) -> bool:
        """Whether every item has a result."""
        return not self._missing

    def settle(self, first: int, results: Sequence[Array | Exception]) -> None:
        """Take the results [rows, num_features] of some items, from the index `first`; report when all are there."""
        self.results[first : first + len(results)] = results
        self._missing -= len(results)
        if self.complete and not self.done.done():
            complete = [result for result in self.results if result is not None]
            self.done.set_result(BatchReport(complete, self.staging_s, self.started, self.finished))

    def fail(self, error: Exception) -> None:
        """Report that the batch was not computed; later results are dropped."""
        settle(self.done, error)


@dataclass(slots=True, eq=False)
class Part:
    """Consecutive items of a batch that one pass computes. deaths: workers that died computing only this item."""

    batch: Batch
    first: int
    end: int
    deaths: int = 0

    @property
    def items(self) -> Sequence[Arrays]:
        """The arrays [rows, ...] of its items."""
        if self.end - self.first == len(self.batch.items):
            return self.batch.items
        return self.batch.items[self.first : self.end]

    @property
    def single(self) -> bool:
        """Whether it is one item."""
        return self.end - self.first == 1

    def settle(self, results: Sequence[Array | Exception]) -> None:
        """Give its items their results [rows, num_features]."""
        self.batch.settle(self.first, results)

    def fail(self, error: Exception) -> None:
        """Give all of its items one error."""
        self.settle([error] * (self.end - self.first))

    def halves(self) -> tuple[Part, Part]:
        """Return it in two parts."""
        middle = (self.first + self.end) // 2
        return Part(self.batch, self.first, middle), Part(self.batch, middle, self.end)

    def apart(self, *, deaths: int) -> Iterator[Part]:
        """Yield each item as a part. deaths: the number that each is charged with."""
        for index in range(self.first, self.end):
            yield Part(self.batch, index, index + 1, deaths)


class ConnectionListener(Protocol):
    """Gets the events of a connection, on the event loop."""

    def on_result(self, part: Part, result: Sequence[Array] | Exception) -> None:
        """Take the rows [rows, num_features] of each item of a part, or the error of its pass."""
        ...

    def on_unsent(self, part: Part) -> None:
        """Take back a part that was written after the worker had ended."""
        ...

    def on_end(self, parts: Sequence[Part], how: str, kind: type[WorkerDiedError]) -> None:
        """Take the parts that the worker had, the oldest first. how: "" if the process ended unasked."""
        ...

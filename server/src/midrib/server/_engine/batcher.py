"""Items wait here and leave as batches. asyncio only: no torch, no grpc, no threads.

A batch leaves the moment a device asks for one and any item waits: nothing is delayed on purpose while nobody
else is there, and load makes its own batches. Between flows the order is start-time fair queueing: each item is
tagged with the virtual time at which its flow's earlier items are paid for, and the smallest tag leaves first. So
one flow's items stay in order, a flow with a thousand items waiting does not delay another's first, and a priority
is a weight, never a reason to starve.
Source: Goyal, Vin & Cheng, "Start-time Fair Queuing", SIGCOMM 1996, section 2.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from midrib.server._engine.item import Item
from midrib.wire import DeadlineExceededError, OverloadedError, UnavailableError

# Under company a batch of few rows waits for the loop to go quiet, at most so long. Not less: uvloop counts in whole
# milliseconds, and a shorter sleep is none. A batch costs half a millisecond of processor time however few its rows.
# Measured, 64 callers of one row each: 3 rows a batch without waiting, 13 within 2 ms, and half the processor time a
# call. More than 2 ms gain nothing there, and cost 16 callers a fifth. A lone caller never waits, and large items are
# not worth it.
_LINGER_S = 1e-3
_MAX_LINGER_S = 2e-3
_FEW_ROWS = 32
_FEW_ELEMENTS = 2**15


@dataclass(frozen=True)
class BatchLimits:
    """max_rows, max_cost: of one batch.  max_queue_items, max_queue_cost: of what waits."""

    max_rows: int
    max_cost: int
    max_queue_items: int
    max_queue_cost: int

    def rows_of(self, elements: int) -> int:
        """How many rows of so many elements a batch holds; one at least."""
        return max(1, min(self.max_rows, self.max_cost // elements))


@dataclass
class BatcherCounts:
    """What became of items before a device: for metrics and tests."""

    accepted: int = 0
    rejected: int = 0
    cancelled: int = 0
    expired: int = 0


class Batcher:
    """The queue of one served backbone.

    when_full: told once what waits fills a batch.
    """

    def __init__(self, limits: BatchLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.counts = BatcherCounts()
        self.queued_items = 0
        self.queued_rows = 0
        self.queued_cost = 0
        self.when_full: set[Callable[[], None]] = set()
        self._clock = clock
        self._buckets: dict[Hashable, list[tuple[float, int, Item]]] = {}
        self._paid: dict[Hashable, float] = {}
        self._virtual_time = 0.0
        self._sequence = itertools.count()
        self._arrival = asyncio.Event()
        self._waiting_for_room: deque[tuple[Item, asyncio.Future[None]]] = deque()
        self._company = False
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether what waits fills a batch."""
        return self.queued_cost >= self.limits.max_cost or self.queued_rows >= self.limits.max_rows

    def submit(self, item: Item) -> None:
        """Queue an item whose caller cannot wait for room; its outcome comes by `item.done`.

        Raises OverloadedError when the queue is full, UnavailableError once closed.
        """
        if self._waiting_for_room or not self._has_room(item):
            self.counts.rejected += 1
            raise OverloadedError(
                f"the queue is full: {self.queued_items} items waiting, limit {self.limits.max_queue_items}; "
                f"cost {self.queued_cost}, limit {self.limits.max_queue_cost}. Try again shortly, or use a stream",
                retry_after=0.1,
            )
        self._queue(item)

    async def put(self, item: Item) -> None:
        """Queue an item, first come first served, once there is room.

        Raises UnavailableError once closed.
        """
        if self._waiting_for_room or not self._has_room(item):
            ticket = asyncio.get_running_loop().create_future()
            self._waiting_for_room.append((item, ticket))
            await ticket
        else:
            self._queue(item)

    async def take(self) -> list[Item]:
        """Wait for items, then take one batch of one bucket. Empty only once closed and drained."""
        while True:
            while not self.queued_items:
                if self._closed:
                    return []
                self._arrival.clear()
                await self._arrival.wait()
            await self._gather()
            batch = self._pop_batch()
            self._admit_waiting()
            if batch:
                self._company = len(batch) > 1
                return batch

    def close(self, error: UnavailableError | None = None) -> None:
        """Accept no more. With an error, fail what waits; without one, let `take` drain it."""
        self._closed = True
        self._arrival.set()
        refused = error or UnavailableError("the backbone is being unloaded: try again elsewhere")
        for item, ticket in self._waiting_for_room:
            _fail(item, refused)
            if not ticket.done():
                ticket.set_result(None)
        self._waiting_for_room.clear()
        if error is not None:
            for heap in self._buckets.values():
                for _, _, item in heap:
                    _fail(item, error)
            self._buckets.clear()
            self.queued_items = self.queued_rows = self.queued_cost = 0

    def _has_room(self, item: Item) -> bool:
        limits = self.limits
        if self.queued_items >= limits.max_queue_items:
            return False
        return self.queued_cost + item.cost <= limits.max_queue_cost or not self.queued_items

    def _queue(self, item: Item) -> None:
        if self._closed:
            raise UnavailableError("the backbone is being unloaded: try again elsewhere")
        item.arrived = self._clock()
        start = max(self._virtual_time, self._paid.get(item.flow, 0.0))
        self._paid[item.flow] = start + max(item.cost, 1) / item.priority
        heapq.heappush(self._buckets.setdefault(item.bucket, []), (start, next(self._sequence), item))
        was_full = self.full
        self.queued_items += 1
        self.queued_rows += item.rows
        self.queued_cost += item.cost
        self.counts.accepted += 1
        self._arrival.set()
        if self.full and not was_full:
            for listener in self.when_full:
                listener()

    def _admit_waiting(self) -> None:
        while self._waiting_for_room and self._has_room(self._waiting_for_room[0][0]):
            item, ticket = self._waiting_for_room.popleft()
            if not ticket.cancelled():
                self._queue(item)
                ticket.set_result(None)

    @property
    def _little(self) -> bool:
        return self.queued_rows < _FEW_ROWS and self.queued_cost < _FEW_ELEMENTS

    async def _gather(self) -> None:
        """Under company let arrivals that are ready now join, and while they are few, those of the next moment too."""
        if not self._company and self.queued_items == 1:
            return
        seen = -1
        started = self._clock()
        while self.queued_items > seen and not self.full:
            seen = self.queued_items
            await asyncio.sleep(0)
            quiet = self.queued_items == seen
            if quiet and self._company and self._little and self._clock() - started < _MAX_LINGER_S:
                await asyncio.sleep(_LINGER_S)

    def _pop_batch(self) -> list[Item]:
        batch: list[Item] = []
        rows = cost = 0
        bucket = min(self._buckets, key=lambda key: self._buckets[key][0][:2], default=None)
        heap = self._buckets.get(bucket, [])
        while heap:
            start, _, item = heap[0]
            alive = self._alive(item)
            if alive and batch and not self._fits(rows + item.rows, cost + item.cost):
                break
            heapq.heappop(heap)
            self.queued_items -= 1
            self.queued_rows -= item.rows
            self.queued_cost -= item.cost
            self._virtual_time = max(self._virtual_time, start)
            if alive:
                batch.append(item)
                rows += item.rows
                cost += item.cost
        if not heap:
            self._buckets.pop(bucket, None)
        if not self._buckets:
            self._paid.clear()
            self._virtual_time = 0.0
        return batch

    def _fits(self, rows: int, cost: int) -> bool:
        return rows <= self.limits.max_rows and cost <= self.limits.max_cost

    def _alive(self, item: Item) -> bool:
        """Whether somebody still waits for the item; dead ones never reach a device."""
        if item.done.done():
            self.counts.cancelled += 1
            return False
        if item.deadline is not None and self._clock() >= item.deadline:
            self.counts.expired += 1
            _fail(item, DeadlineExceededError("the deadline passed while the item waited for a device"))
            return False
        return True


def _fail(item: Item, error: Exception) -> None:
    if not item.done.done():
        item.done.set_exception(error)

"""Queued items: which ones leave next as a batch, and which ones leave because no caller waits for them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Hashable
from functools import partial
from math import inf

from midrib.server._engine.batch_limits import BatchBudget, BatchLimits
from midrib.server._engine.flows import ROOM, Flow, Flows
from midrib.server._engine.item import BatcherCounts, Item, Outcome, settle
from midrib.wire import DeadlineExceededError

# Rebuild the heaps when more items than this, and more than are queued, have left without being taken.
_MAX_STALE = 64


class ItemQueue:
    """The queued items of one served backbone, in one heap for each bucket, ordered by the start tags of their flows.

    items, rows, cost: totals of the queued items.  on_room: called after an item has left that no caller waits for.
    """

    def __init__(
        self, limits: BatchLimits, on_room: Callable[[], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.budget = BatchBudget(limits)
        self.counts = BatcherCounts()
        self.flows = Flows()
        self.items = 0
        self.rows = 0
        self.cost = 0
        self._on_room = on_room
        self._clock = clock
        self._buckets: dict[Hashable, list[tuple[float, int, Item]]] = {}
        self._stale = 0
        self._earliest_deadline = inf
        self._sequence = itertools.count()

    @property
    def full(self) -> bool:
        """Whether the queued items fill a batch."""
        return self.budget.is_full(self.rows, self.cost)

    def may_queue(self, item: Item) -> bool:
        """Return whether an item may be queued now: its flow has room, and no earlier item of the flow waits for it."""
        flow = self.flows.of(item)
        return not flow.waiting and self.has_room(item, flow)

    def has_room(self, item: Item, flow: Flow) -> bool:
        """Return whether the flow's share of the queue has room for an item."""
        free_items = ROOM * self.limits.max_queue_items - self.items
        return flow.may_queue(item.cost, free_items, ROOM * self.limits.max_queue_cost - self.cost)

    def push(self, item: Item) -> None:
        """Queue an item."""
        item.arrived = self._clock()
        if item.deadline is not None:
            self._earliest_deadline = min(self._earliest_deadline, item.deadline)
        tag = self.flows.queued(item, self._next_cost(item))
        heapq.heappush(self._buckets.setdefault(item.bucket, []), (tag, next(self._sequence), item))
        item.queued = True
        self.items += 1
        self.rows += item.rows
        self.cost += item.cost
        self.counts.accepted += 1
        item.done.add_done_callback(partial(self._drop_abandoned, item))

    def pop_batch(self) -> list[Item]:
        """Return the next batch, of items of one bucket; empty if no caller waits for any item.

        An item that is larger than a batch is cut: its first rows leave, and the others are queued behind the items
        that have been queued by then.
        """
        batch: list[Item] = []
        rows = cost = 0
        last_start = 0.0
        bucket = self._next_bucket()
        heap = self._buckets.get(bucket, [])
        while heap and self.items:
            start, _, item = heap[0]
            if item.queued and self._alive(item):
                if not (count := self._rows_to_take(item, rows, cost)):
                    break
                part = self._take_first(heap, count)
                batch.append(part)
                rows += part.rows
                cost += part.cost
            else:
                self._discard_first(heap)
            last_start = start
        self.flows.advance(last_start)  # the tags of a heap ascend
        if not heap:
            self._buckets.pop(bucket, None)
        return batch

    def drop_expired(self) -> None:
        """Drop the queued items whose deadline has passed."""
        if self._clock() < self._earliest_deadline:
            return
        for item in self._queued():
            if not self._alive(item):
                self._stale += 1
                self._leave(item)
        self._rebuild()
        self._earliest_deadline = min((item.deadline or inf for item in self._queued()), default=inf)
        self._on_room()

    def fail_all(self, error: Exception) -> None:
        """Drop all queued items; each is done with the error."""
        for item in self._queued():
            self._leave(item)
            settle(item.done, error)

    def _next_bucket(self) -> Hashable:
        """Return the bucket of the item that leaves next; None if nothing is queued."""
        if len(self._buckets) == 1:
            return next(iter(self._buckets))
        return min(self._buckets, key=lambda key: self._buckets[key][0][:2], default=None)

    def _rows_to_take(self, item: Item, rows: int, cost: int) -> int:
        """Return how many rows of an item a batch of `rows` and `cost` takes: all, or as many as have room, or none."""
        room = self.budget.rows_beside(rows, cost, item.row_cost)
        if item.rows <= room:
            return item.rows
        return room if item.rows > self.budget.rows_beside(0, 0, item.row_cost) else 0

    def _next_cost(self, item: Item) -> int:
        """Return the cost of the rows of an item that one batch takes."""
        if item.rows == 1:
            return item.cost
        return item.row_cost * min(item.rows, self.budget.rows_beside(0, 0, item.row_cost))

    def _take_first(self, heap: list[tuple[float, int, Item]], rows: int) -> Item:
        """Take the first item of a heap, or an item of its first rows."""
        _, order, item = heap[0]
        if item.parts is None and rows == item.rows:
            heapq.heappop(heap)
            self._leave(item)
            return item
        part = item.cut(rows)
        self.rows -= part.rows
        self.cost -= part.cost
        self.flows.shrunk(item, part.cost)
        if item.rows:
            self.counts.accepted += 1
            heapq.heapreplace(heap, (self.flows.tag(item, self._next_cost(item)), order, item))
        else:
            heapq.heappop(heap)
            self._leave(item)
        return part

    def _discard_first(self, heap: list[tuple[float, int, Item]]) -> None:
        _, _, item = heapq.heappop(heap)
        if item.queued:
            self._leave(item)
        else:
            self._stale -= 1

    def _leave(self, item: Item) -> None:
        """Stop counting an item, whose entry in the heap may be left there."""
        item.queued = False
        self.items -= 1
        self.rows -= item.rows
        self.cost -= item.cost
        self.flows.left(item)
        if not self.items:
            self._buckets.clear()
            self._stale = 0
            self._earliest_deadline = inf
            self.flows.restart()

    def _drop_abandoned(self, item: Item, _done: asyncio.Future[Outcome]) -> None:
        """Drop a queued item whose caller has left, with its arrays."""
        if not item.queued:
            return
        self.counts.cancelled += 1
        item.arrays = ()
        self._stale += 1
        self._leave(item)
        if self._stale > max(_MAX_STALE, self.items):
            self._rebuild()
        self._on_room()

    def _rebuild(self) -> None:
        """Drop the entries of items that have left."""
        for bucket, heap in list(self._buckets.items()):
            heap[:] = [entry for entry in heap if entry[2].queued]
            heapq.heapify(heap)
            if not heap:
                del self._buckets[bucket]
        self._stale = 0

    def _queued(self) -> list[Item]:
        return [item for heap in self._buckets.values() for _, _, item in heap if item.queued]

    def _alive(self, item: Item) -> bool:
        """Return whether somebody still waits for the item; an expired one is done with DeadlineExceededError."""
        if item.done.done():
            self.counts.cancelled += 1
            return False
        if item.deadline is not None and self._clock() >= item.deadline:
            self.counts.expired += 1
            settle(item.done, DeadlineExceededError("the deadline passed while the item waited for a device"))
            return False
        return True

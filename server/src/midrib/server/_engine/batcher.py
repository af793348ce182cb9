"""Items wait here and leave as batches. asyncio only: no torch, no grpc, no threads.

A batch leaves as soon as a device asks for one and an item waits. Under load, small batches wait up to `max_delay_s`
for more items. `flows` decides whose items leave first, and which share of the queue each flow may fill. Items that
nobody waits for any more leave the queue at once.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from math import inf

from midrib.server._engine.flows import ROOM, Flow, Flows
from midrib.server._engine.item import BatcherCounts, Item, Outcome
from midrib.wire import DeadlineExceededError, OverloadedError, UnavailableError

# While requests arrive together, a small batch waits until no more arrive, in steps of this length: uvloop counts in
# whole milliseconds. A batch costs half a millisecond of processor time however few its rows. Measured with 64 callers
# of one row each: 3 rows a batch without waiting, 13 within 2 ms, and half the processor time a call. More than 2 ms
# gain nothing there, and cost 16 callers a fifth. A lone caller never waits, and large items gain nothing.
_DELAY_STEP_S = 1e-3
_FEW_ROWS = 32
_FEW_ELEMENTS = 2**15
# Rebuild the heaps when more items than this, and more than are queued, have left without being taken.
_MAX_STALE = 64


@dataclass(frozen=True)
class BatchLimits:
    """Limits of a batch and of the queue.

    max_rows, max_cost: of one batch.  max_queue_items, max_queue_cost: of the items of one flow that wait.
    max_delay_s: how long a small batch waits for more items under load.
    """

    max_rows: int
    max_cost: int
    max_queue_items: int
    max_queue_cost: int
    max_delay_s: float = 2e-3

    def rows_of(self, elements: int) -> int:
        """Return the number of rows of this many elements that a batch holds; at least 1."""
        return max(1, min(self.max_rows, self.max_cost // elements))


class Batcher:
    """The queue of one served backbone.

    when_full: functions to call when the queued items fill a batch.
    """

    def __init__(self, limits: BatchLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.counts = BatcherCounts()
        self.queued_items = 0
        self.queued_rows = 0
        self.queued_cost = 0
        self.when_full: set[Callable[[], None]] = set()
        self.flows = Flows()
        self._clock = clock
        self._buckets: dict[Hashable, list[tuple[float, int, Item]]] = {}
        self._stale = 0
        self._earliest_deadline = inf
        self._sequence = itertools.count()
        self._arrival = asyncio.Event()
        self._line: OrderedDict[Hashable, Flow] = OrderedDict()
        self._company = False
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether the queued items fill a batch."""
        return self.queued_cost >= self.limits.max_cost or self.queued_rows >= self.limits.max_rows

    def submit(self, item: Item) -> None:
        """Queue an item whose caller cannot wait for room; `item.done` gets its outcome.

        Raises OverloadedError if the flow's share of the queue is full, UnavailableError once closed.
        """
        self._check_open()
        flow = self.flows.of(item)
        if flow.waiting or not self._has_room(item, flow):
            self._drop_expired()
            flow = self.flows.of(item)
        if flow.waiting or not self._has_room(item, flow):
            self.counts.rejected += 1
            raise OverloadedError(
                f"the queue is full: {self.queued_items} items waiting, limit {self.limits.max_queue_items}; "
                f"cost {self.queued_cost}, limit {self.limits.max_queue_cost}; {flow.items} items of this client. "
                "Try again shortly, or use a stream",
                retry_after=0.1,
            )
        self._queue(item)

    async def put(self, item: Item) -> None:
        """Queue an item once there is room; items of one flow are queued in order.

        Raises UnavailableError once closed.
        """
        self._check_open()
        flow = self.flows.of(item)
        if not flow.waiting and self._has_room(item, flow):
            self._queue(item)
            return
        admitted = asyncio.get_running_loop().create_future()
        flow.waiting[admitted] = item
        self._line[item.flow] = flow  # in place of a flow of this key that has been forgotten
        try:
            await admitted
        finally:
            flow.waiting.pop(admitted, None)

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
        """Accept no more. With an error, fail the queued items; without one, let `take` drain them."""
        self._closed = True
        self._arrival.set()
        refused = error or UnavailableError("the backbone is being unloaded: try again elsewhere")
        for flow in self._line.values():
            for admitted, item in flow.waiting.items():
                _fail(item, refused)
                if not admitted.done():
                    admitted.set_result(None)
        self._line.clear()
        if error is not None:
            for item in self._items():
                self._leave(item)
                _fail(item, error)

    def _check_open(self) -> None:
        if self._closed:
            raise UnavailableError("the backbone is being unloaded: try again elsewhere")

    def _has_room(self, item: Item, flow: Flow) -> bool:
        free_items = ROOM * self.limits.max_queue_items - self.queued_items
        return flow.may_queue(item.cost, free_items, ROOM * self.limits.max_queue_cost - self.queued_cost)

    def _queue(self, item: Item) -> None:
        item.arrived = self._clock()
        if item.deadline is not None:
            self._earliest_deadline = min(self._earliest_deadline, item.deadline)
        start = self.flows.queued(item)
        heapq.heappush(self._buckets.setdefault(item.bucket, []), (start, next(self._sequence), item))
        was_full = self.full
        item.queued = True
        self.queued_items += 1
        self.queued_rows += item.rows
        self.queued_cost += item.cost
        self.counts.accepted += 1
        item.done.add_done_callback(partial(self._abandoned, item))
        self._arrival.set()
        if self.full and not was_full:
            for listener in self.when_full:
                listener()

    def _leave(self, item: Item) -> None:
        """Stop counting an item, whose entry in the heap may be left there."""
        item.queued = False
        self.queued_items -= 1
        self.queued_rows -= item.rows
        self.queued_cost -= item.cost
        self.flows.left(item)
        if not self.queued_items:
            self._buckets.clear()
            self._stale = 0
            self._earliest_deadline = inf
            self.flows.restart()

    def _abandoned(self, item: Item, _done: asyncio.Future[Outcome]) -> None:
        """Drop a queued item whose caller has left, with its arrays, and give its room to the next."""
        if not item.queued:
            return
        self.counts.cancelled += 1
        item.arrays = ()
        self._stale += 1
        self._leave(item)
        if self._stale > max(_MAX_STALE, self.queued_items):
            self._rebuild()
        self._admit_waiting()

    def _rebuild(self) -> None:
        """Drop the entries of items that have left."""
        for bucket, heap in list(self._buckets.items()):
            heap[:] = [entry for entry in heap if entry[2].queued]
            heapq.heapify(heap)
            if not heap:
                del self._buckets[bucket]
        self._stale = 0

    def _items(self) -> list[Item]:
        return [item for heap in self._buckets.values() for _, _, item in heap if item.queued]

    def _drop_expired(self) -> None:
        """Drop the queued items whose deadline has passed."""
        if self._clock() < self._earliest_deadline:
            return
        for item in self._items():
            if not self._alive(item):
                self._stale += 1
                self._leave(item)
        self._rebuild()
        self._earliest_deadline = min((item.deadline or inf for item in self._items()), default=inf)
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        """Queue waiting items, one of each flow in rotation, while there is room."""
        blocked = 0
        while blocked < len(self._line) and self.queued_items < ROOM * self.limits.max_queue_items:
            key, flow = self._line.popitem(last=False)
            admitted, item = next(iter(flow.waiting.items()), (None, None))
            if admitted is None or item is None:  # those who waited have left
                continue
            blocked += 1
            if admitted.done() or self._has_room(item, flow):
                del flow.waiting[admitted]
                blocked = 0
            self._line[key] = flow
            if not blocked and not admitted.done():
                self._queue(item)
                admitted.set_result(None)

    async def _gather(self) -> None:
        """Under load let items that arrive now join, and while they are few, those of the next moment too."""
        if not self._company and self.queued_items == 1:
            return
        seen = -1
        started = self._clock()
        while self.queued_items > seen and not self.full:
            seen = self.queued_items
            await asyncio.sleep(0)
            quiet = self.queued_items == seen
            little = self.queued_rows < _FEW_ROWS and self.queued_cost < _FEW_ELEMENTS
            if quiet and self._company and little and self._clock() - started < self.limits.max_delay_s:
                await asyncio.sleep(_DELAY_STEP_S)

    def _pop_batch(self) -> list[Item]:
        batch: list[Item] = []
        rows = cost = 0
        bucket = min(self._buckets, key=lambda key: self._buckets[key][0][:2], default=None)
        heap = self._buckets.get(bucket, [])
        while heap and self.queued_items:
            start, _, item = heap[0]
            alive = item.queued and self._alive(item)
            if alive and batch and not self._fits(rows + item.rows, cost + item.cost):
                break
            heapq.heappop(heap)
            self.flows.advance(start)
            if item.queued:
                self._leave(item)
            else:
                self._stale -= 1
            if alive:
                batch.append(item)
                rows += item.rows
                cost += item.cost
        if not heap:
            self._buckets.pop(bucket, None)
        return batch

    def _fits(self, rows: int, cost: int) -> bool:
        return rows <= self.limits.max_rows and cost <= self.limits.max_cost

    def _alive(self, item: Item) -> bool:
        """Whether somebody still waits for the item; others never reach a device."""
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

"""Items wait here and leave as batches. asyncio only: no torch, no grpc, no threads.

A batch leaves as soon as a device asks for one and an item is queued. Under load, small batches wait up to
`max_delay_s` for more items. `flows` decides whose items leave first, and which share of the queue each flow may fill.
Items for which no caller waits any more leave the queue at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.item import BatcherCounts, Item
from midrib.server._engine.item_queue import ItemQueue
from midrib.server._engine.waiting_line import WaitingLine
from midrib.wire import OverloadedError, UnavailableError

# While requests arrive together, a small batch waits until no more arrive, in steps of this length: uvloop counts in
# whole milliseconds. A batch costs half a millisecond of processor time, however few its rows. Measured with 64 callers
# of one row each: 3 rows a batch without waiting, 13 within 2 ms, and half the processor time per call. Waiting for
# more than 2 ms gains nothing there, and costs 16 callers a fifth. A lone caller never waits; large items gain nothing.
_DELAY_STEP_S = 1e-3
_FEW_ROWS = 32
_FEW_ELEMENTS = 2**15


class Batcher:
    """The queue of one served backbone, its waiting line, and the moment at which a batch leaves.

    when_full: functions to call when the queued items fill a batch.
    starts_at: returns when a worker may start, on the clock; 0 if one runs or may start now.
    """

    def __init__(self, limits: BatchLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.when_full: set[Callable[[], None]] = set()
        self.starts_at: Callable[[], float] = lambda: 0.0
        self.queue = ItemQueue(limits, self._admit_waiting, clock=clock)
        self._line = WaitingLine(self.queue)
        self._clock = clock
        self._arrival = asyncio.Event()
        self._loaded = False  # whether the last batch had several items
        self._closed = False

    @property
    def counts(self) -> BatcherCounts:
        """The number of items that were accepted, and of those that were not computed."""
        return self.queue.counts

    @property
    def queued_items(self) -> int:
        """The number of queued items."""
        return self.queue.items

    @property
    def queued_cost(self) -> int:
        """The cost of the queued items."""
        return self.queue.cost

    @property
    def full(self) -> bool:
        """Whether the queued items fill a batch."""
        return self.queue.full

    def submit(self, item: Item) -> None:
        """Queue an item whose caller cannot wait for room; `item.done` gets its outcome.

        Raises OverloadedError if the flow's share of the queue is full, UnavailableError once closed, or if no worker
        starts before the item's deadline.
        """
        self._check_open(item)
        if not self.queue.may_queue(item):
            self._make_room(item)
        self._push(item)

    async def put(self, item: Item) -> None:
        """Queue an item once there is room; items of one flow are queued in order.

        Raises UnavailableError once closed, or if no worker starts before the item's deadline.
        """
        self._check_open(item)
        if self.queue.may_queue(item):
            self._push(item)
        else:
            await self._line.wait(item, self.queue.flows.of(item))

    async def take(self) -> list[Item]:
        """Wait for items, then take one batch of one bucket. Empty only once closed and drained."""
        while True:
            while not self.queue.items:
                if self._closed:
                    return []
                self._arrival.clear()
                await self._arrival.wait()
            await self._gather()
            batch = self.queue.pop_batch()
            self._admit_waiting()
            if batch:
                self._loaded = len(batch) > 1
                return batch

    def close(self, error: UnavailableError | None = None) -> None:
        """Accept no more. With an error, fail the queued items; without one, let `take` drain them."""
        self._closed = True
        self._arrival.set()
        self._line.fail_all(error or UnavailableError("the backbone is being unloaded: try again elsewhere"))
        if error is not None:
            self.queue.fail_all(error)

    def _check_open(self, item: Item) -> None:
        """Raise UnavailableError while the backbone is being unloaded, or if no worker starts before the deadline."""
        if self._closed:
            raise UnavailableError("the backbone is being unloaded: try again elsewhere")
        if item.deadline is not None and (starts_at := self.starts_at()) > item.deadline:
            wait_s = starts_at - self._clock()
            raise UnavailableError(
                f"no worker of the backbone runs, and the next one starts in {wait_s:.1f} s, after the call's deadline:"
                " try another server",
                retry_after=wait_s,
            )

    def _make_room(self, item: Item) -> None:
        """Drop the expired items. Raises OverloadedError if there is still no room for the item."""
        self.queue.drop_expired()
        if self.queue.may_queue(item):
            return
        self.counts.rejected += 1
        raise OverloadedError(
            f"the queue is full: {self.queue.items} items waiting, limit {self.limits.max_queue_items}; cost "
            f"{self.queue.cost}, limit {self.limits.max_queue_cost}; {self.queue.flows.of(item).items} items of "
            "this client. Try again shortly, or use a stream",
            retry_after=0.1,
        )

    def _push(self, item: Item) -> None:
        was_full = self.queue.full
        self.queue.push(item)
        self._announce(was_full)

    def _admit_waiting(self) -> None:
        was_full = self.queue.full
        if self._line.admit():
            self._announce(was_full)

    def _announce(self, was_full: bool) -> None:
        """Wake the feeders that wait for items, or for a full batch."""
        self._arrival.set()
        if self.queue.full and not was_full:
            for listener in self.when_full:
                listener()

    async def _gather(self) -> None:
        """Under load, let items that arrive now join the batch; while they are few, wait a little for more."""
        if not self._loaded and self.queue.items == 1:
            return
        before = -1
        started = self._clock()
        while self.queue.items > before and not self.queue.full:
            before = self.queue.items
            await asyncio.sleep(0)
            quiet = self.queue.items == before
            little = self.queue.rows < _FEW_ROWS and self.queue.cost < _FEW_ELEMENTS
            if quiet and self._loaded and little and self._clock() - started < self.limits.max_delay_s:
                await asyncio.sleep(_DELAY_STEP_S)

"""Hands batches from the queue to a replica: the next one is staged while the device computes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TypeAlias

from midrib.server._engine.batcher import Batcher
from midrib.server._engine.compute import BatchReport, BatchRunner
from midrib.server._engine.item import Item
from midrib.server._engine.prefetch import PrefetchTimer

# Called with every batch that is done: its items, and the future of its report.
OnDone: TypeAlias = Callable[[Sequence[Item], "asyncio.Future[BatchReport]"], None]


class Feeder:
    """Feeds one replica, which has started, from a queue that others may take from too."""

    def __init__(self, batcher: Batcher, replica: BatchRunner, on_done: OnDone) -> None:
        self._batcher = batcher
        self._replica = replica
        self._on_done = on_done
        self._timer = PrefetchTimer(time.monotonic)
        self._running: deque[asyncio.Future[BatchReport]] = deque()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Hand over batches until the queue is closed and drained, and the last batch is done.

        Raises UnavailableError if the replica is lost; its batches have that outcome too.
        """
        self._batcher.when_full.add(self._wake.set)
        try:
            while batch := await self._batcher.take():
                self._hand_over(batch)
                del batch  # nothing here may keep its memory
                await self._until_needed()
            while self._running:
                _check_not_lost(await self._running.popleft())
        finally:
            self._batcher.when_full.discard(self._wake.set)

    async def _until_needed(self) -> None:
        """Wait until the next batch should be taken: shortly before the device is free, or once it is."""
        while self._running:
            wait_s = inf
            if len(self._running) < self._replica.depth:
                wait_s = self._timer.next_in_s(full=self._batcher.full)
                if wait_s <= 0 and self._batcher.queued_items:
                    return
            await self._until_woken(wait_s)
            while self._running and self._running[0].done():
                _check_not_lost(self._running.popleft().result())

    async def _until_woken(self, wait_s: float) -> None:
        """Wait until a batch is done, the queue is full, or `wait_s` seconds have passed."""
        self._wake.clear()
        alarm = asyncio.get_running_loop().call_later(wait_s, self._wake.set) if 0 < wait_s < inf else None
        await self._wake.wait()
        if alarm is not None:
            alarm.cancel()

    def _hand_over(self, batch: Sequence[Item]) -> None:
        done = self._replica.submit([item.arrays for item in batch])
        self._timer.handed_over(sum(item.cost for item in batch))
        done.add_done_callback(self._measure)
        done.add_done_callback(partial(self._on_done, batch))
        self._running.append(done)

    def _measure(self, done: asyncio.Future[BatchReport]) -> None:
        self._wake.set()
        if done.exception() is None:
            report = done.result()
            self._timer.finished(staging_s=report.staging_s, compute_s=report.finished - report.started)


def _check_not_lost(report: BatchReport) -> None:
    """Raise the UnavailableError of a replica that was lost with this batch: it gets no further batch."""
    if report.lost is not None:
        raise report.lost

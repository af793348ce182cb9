"""Measure the compute plans again that were measured on a busy machine, once the server and the machine are idle."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence

from midrib.server._calibration.other_load import OtherLoad
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.compute import WorkerPlan

logger = logging.getLogger(__name__)

# How often a measurement is checked for items of other backbones, which it would slow down. Nothing is checked more
# often.
_LOOK_S = 0.02
# How often the server looks whether it was idle long enough, as a share of that time.
_LOOKS = 5
# After a measurement without a result the server waits twice as long, up to this many seconds.
_LONGEST_WAIT_S = 3600.0


class IdleCalibration:
    """Measures again on one backbone at a time, and only while no backbone has an item.

    serving: returns the backbones that serve.  changing: returns whether a backbone is being loaded or unloaded.
    idle_s: the seconds without an item before a measurement; with 0, nothing is measured again.
    """

    def __init__(
        self,
        serving: Callable[[], Sequence[Loaded]],
        changing: Callable[[], bool],
        idle_s: float,
        *,
        other_load: Callable[[], OtherLoad] = OtherLoad,
    ) -> None:
        self._serving, self._changing, self._idle_s, self._other_load = serving, changing, idle_s, other_load
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch until every plan was measured on a quiet machine, in a task. Call it after each load."""
        if self._idle_s > 0 and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self.run())

    def close(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Measure until no plan is left that other processes disturbed, one backbone after the other."""
        wait_s, attempts = self._idle_s, itertools.count()
        while self._disturbed():
            await self._until_idle(wait_s)  # keeps no backbone: one that is unloaded meanwhile frees its memory
            done = await self._measure_one(next(attempts))
            wait_s = self._idle_s if done else max(self._idle_s, min(2 * wait_s, _LONGEST_WAIT_S))

    async def _measure_one(self, attempt: int) -> bool:
        """Measure the next of the disturbed backbones, in turn; return whether that gave a result."""
        disturbed = self._disturbed()
        return bool(disturbed) and await self._measure(disturbed[attempt % len(disturbed)])

    def _disturbed(self) -> list[Loaded]:
        return [loaded for loaded in self._serving() if loaded.plan is not None and loaded.plan.disturbed]

    async def _until_idle(self, seconds: float) -> None:
        """Wait until no backbone has had an item, and other processes have used few processors, for some seconds."""
        while not await self._was_idle(seconds):
            pass

    async def _was_idle(self, seconds: float) -> bool:
        """Return whether the server and the machine were idle for some seconds; False soon after an item arrives."""
        end, accepted, other_load = time.monotonic() + seconds, self._accepted(), self._other_load()
        while (rest_s := end - time.monotonic()) > 0:
            await asyncio.sleep(max(_LOOK_S, min(rest_s, seconds / _LOOKS)))
            if not self._idle_since(accepted):
                return False
        return not other_load.busy()

    async def _measure(self, loaded: Loaded) -> bool:
        """Measure a backbone's plan again; return whether that gave a result. Stop if another backbone gets an item."""
        accepted, before = self._accepted(), loaded.plan
        measuring = asyncio.ensure_future(loaded.served.measure_plan_again())
        try:
            while not (await asyncio.wait({measuring}, timeout=_LOOK_S))[0]:
                if not self._idle_since(accepted):
                    loaded.served.stop_measuring()
                if loaded not in self._serving():  # its replica may have been lost
                    return False
        finally:
            measuring.cancel()  # no effect on one that has ended
        return _take(loaded, measuring, before)

    def _accepted(self) -> int:
        return sum(loaded.served.batcher.counts.accepted for loaded in self._serving())

    def _idle_since(self, accepted: int) -> bool:
        """Return whether nothing is queued, computed, loaded or unloaded. accepted: the items until then."""
        idle = all(loaded.served.idle for loaded in self._serving())
        return idle and self._accepted() == accepted and not self._changing()


def _take(loaded: Loaded, measuring: asyncio.Future[WorkerPlan | None], before: WorkerPlan | None) -> bool:
    """Keep the result of a measurement for later workers, and log it; return whether there is a result."""
    name = loaded.served.description.name
    if (error := measuring.exception()) is not None:
        logger.warning("backbone %s could not be measured again: %s", name, type(error).__name__)
        return False
    if (plan := measuring.result()) is None or before is None:
        return False
    loaded.use_plan(plan)
    change = "as before" if plan.fields == before.fields else f"before: {before.text}"
    logger.info("backbone %s was measured again on the idle machine and computes with %s (%s)", name, plan.text, change)
    return True

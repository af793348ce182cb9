"""Items that wait for room in the queue: those of streams, whose callers wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable

from midrib.server._engine.flows import ROOM, Flow
from midrib.server._engine.item import Item, settle
from midrib.server._engine.item_queue import ItemQueue


class WaitingLine:
    """The flows whose items wait for room in a queue; the flows take turns, the items of a flow keep their order."""

    def __init__(self, queue: ItemQueue) -> None:
        self._queue = queue
        self._flows: OrderedDict[Hashable, Flow] = OrderedDict()

    async def wait(self, item: Item, flow: Flow) -> None:
        """Return once the item is queued, or failed because the line was closed."""
        admitted = asyncio.get_running_loop().create_future()
        flow.waiting[admitted] = item
        self._flows[item.flow] = flow  # in place of a flow of this key that has been forgotten
        try:
            await admitted
        finally:
            flow.waiting.pop(admitted, None)

    def admit(self) -> bool:
        """Queue items, one of each flow in turn, while there is room; return whether any was queued."""
        blocked, queued = 0, False
        while blocked < len(self._flows) and self._queue.items < ROOM * self._queue.limits.max_queue_items:
            key, flow = self._flows.popitem(last=False)
            admitted, item = next(iter(flow.waiting.items()), (None, None))
            if admitted is None or item is None:  # those who waited have left
                continue
            blocked += 1
            if admitted.done() or self._queue.has_room(item, flow):
                del flow.waiting[admitted]
                blocked = 0
            self._flows[key] = flow
            if not blocked and not admitted.done():
                self._queue.push(item)
                admitted.set_result(None)
                queued = True
        return queued

    def fail_all(self, error: Exception) -> None:
        """Fail the items that wait, so that their callers continue."""
        for flow in self._flows.values():
            for admitted, item in flow.waiting.items():
                settle(item.done, error)
                settle(admitted, None)
        self._flows.clear()

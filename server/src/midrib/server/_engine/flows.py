"""Flows: whose items wait, the order between them, and the share of the queue that each may fill.

Order: start-time fair queueing. Each item is tagged with the virtual time at which its flow's earlier items are paid
for, and the smallest tag leaves first. So the items of a flow stay in order, a flow with a thousand items waiting does
not delay the first of another, and a priority is a weight: each flow is served. An item that is larger than a batch is
tagged again for each of its parts, so that the items that its flow has queued meanwhile leave before the rest of it.
Source: Goyal, Vin & Cheng, "Start-time Fair Queuing", SIGCOMM 1996, section 2.

Share: dynamic thresholds. A flow may fill the queue up to 16 times the room that is still free. The queue has room for
17/16 of its limit: one flow alone fills it up to the limit, and the next flow still finds room.
Source: Choudhury & Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998, section III.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from midrib.server._engine.item import Item

# The multiple of the free room that one flow may fill.
_SHARE = 16
ROOM = 1 + 1 / _SHARE
"""The room of a queue, as a multiple of its limit: one flow alone may fill the limit, further flows the rest."""
# The number of idle flows to remember. If new flows arrive faster than items leave, the virtual time does not advance,
# so idle flows that are not yet paid for would otherwise grow without bound.
_MAX_IDLE_FLOWS = 256


@dataclass(slots=True, eq=False)
class Flow:
    """The items of one client.

    paid: the virtual time at which its items are paid for.  items, cost: the number and cost of its queued items.
    waiting: items that wait for room in the queue, in order of arrival, by the future that admits each.
    """

    paid: float = 0.0
    items: int = 0
    cost: int = 0
    waiting: OrderedDict[asyncio.Future[None], Item] = field(default_factory=OrderedDict)

    def may_queue(self, cost: int, free_items: float, free_cost: float) -> bool:
        """Return whether an item of this cost may be queued, given the free room of the whole queue.

        The first item of a flow needs a free position only: however large, it would otherwise wait behind the small
        items of others for ever.
        """
        if self.items >= _SHARE * free_items:
            return False
        return not self.items or self.cost + cost <= _SHARE * (free_cost - cost)


class Flows:
    """The flows of one queue and its virtual time."""

    def __init__(self) -> None:
        self._flows: dict[Hashable, Flow] = {}
        self._virtual_time = 0.0
        self._max_flows = 2 * _MAX_IDLE_FLOWS

    def __len__(self) -> int:
        return len(self._flows)

    def of(self, item: Item) -> Flow:
        """Return the flow of an item, which may be new."""
        flow = self._flows.get(item.flow)
        if flow is None:
            if len(self._flows) >= self._max_flows:
                self._forget_idle()
            flow = self._flows[item.flow] = Flow()
        return flow

    def queued(self, item: Item, cost: int) -> float:
        """Count an item that is queued; return the start tag of its first rows, whose cost its flow pays."""
        flow = self.of(item)
        flow.items += 1
        flow.cost += item.cost
        return self._tag(flow, cost, item.priority)

    def tag(self, item: Item, cost: int) -> float:
        """Return the start tag of the next rows of a queued item, whose cost its flow pays."""
        return self._tag(self.of(item), cost, item.priority)

    def _tag(self, flow: Flow, cost: int, weight: int) -> float:
        start = max(self._virtual_time, flow.paid)
        flow.paid = start + max(cost, 1) / weight
        return start

    def shrunk(self, item: Item, cost: int) -> None:
        """Count that a part of a queued item, of this cost, was taken."""
        self.of(item).cost -= cost

    def left(self, item: Item) -> None:
        """Count an item that is not queued any more."""
        flow = self.of(item)
        flow.items -= 1
        flow.cost -= item.cost

    def advance(self, start: float) -> None:
        """Set the virtual time to the start tag of an item that is taken."""
        self._virtual_time = max(self._virtual_time, start)

    def restart(self) -> None:
        """Start at virtual time 0; call it while no item is queued."""
        self._virtual_time = 0.0
        self._flows = {key: flow for key, flow in self._flows.items() if flow.waiting}
        for flow in self._flows.values():
            flow.paid = 0.0

    def _forget_idle(self) -> None:
        """Drop the flows without queued, waiting or unpaid items, which equal new ones; then the oldest idle ones."""
        used = {key: flow for key, flow in self._flows.items() if flow.items or flow.waiting}
        unpaid = [(key, flow) for key, flow in self._flows.items() if flow.paid > self._virtual_time]
        self._flows = {**dict([each for each in unpaid if each[0] not in used][-_MAX_IDLE_FLOWS:]), **used}
        self._max_flows = len(self._flows) + _MAX_IDLE_FLOWS

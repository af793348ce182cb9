"""Which backbones leave so that another fits: the least recently used, idle and unpinned ones first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from midrib.wire import LimitExceededError


@dataclass(frozen=True)
class Resident:
    """A loaded backbone, as the budget sees it.

    weight_bytes: of its parameters and buffers, on each of its devices.  last_used: on any one clock.
    movable: idle and not pinned.
    """

    name: str
    weight_bytes: int
    last_used: float
    movable: bool


def evictions(residents: Iterable[Resident], wanted: int, budget: int) -> list[str]:
    """The names that leave so that `wanted` more bytes fit into the budget, in the order in which they leave.

    Raises LimitExceededError where no choice of leavers makes enough room.
    """
    present = list(residents)
    free = budget - sum(one.weight_bytes for one in present)
    evicted: list[str] = []
    for one in sorted((one for one in present if one.movable), key=lambda one: one.last_used):
        if free >= wanted:
            break
        free += one.weight_bytes
        evicted.append(one.name)
    if free < wanted:
        staying = ", ".join(sorted(one.name for one in present if not one.movable)) or "nothing"
        raise LimitExceededError(
            f"{wanted} bytes of weights do not fit: the budget is {budget}, and what is busy or pinned stays "
            f"({staying}): unload something, or raise device_memory_bytes",
            reason="DEVICE_MEMORY",
        )
    return evicted

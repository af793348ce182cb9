"""Choose the backbones to unload so that another one fits: idle, unpinned, the least recently used first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from midrib.wire import LimitExceededError


@dataclass(frozen=True)
class Resident:
    """A loaded backbone, as the budget sees it.

    weight_bytes: the size of its weights on each of its devices.  last_used: a time, on the same clock for all.
    movable: idle and not pinned.
    """

    name: str
    weight_bytes: int
    last_used: float
    movable: bool


def evictions(residents: Iterable[Resident], needed: int, budget: int) -> list[str]:
    """Return the names to unload so that `needed` more bytes fit into the budget, in the order of unloading.

    Raises LimitExceededError if unloading every movable backbone does not make enough room.
    """
    present = list(residents)
    free = budget - sum(resident.weight_bytes for resident in present)
    evicted: list[str] = []
    for resident in sorted(filter(lambda resident: resident.movable, present), key=lambda resident: resident.last_used):
        if free >= needed:
            break
        free += resident.weight_bytes
        evicted.append(resident.name)
    if free < needed:
        staying = ", ".join(sorted(resident.name for resident in present if not resident.movable)) or "nothing"
        raise LimitExceededError(
            f"{needed} bytes of weights do not fit: the budget is {budget}, and busy or pinned backbones stay "
            f"({staying}): unload something, or raise device_memory_bytes",
            reason="DEVICE_MEMORY",
        )
    return evicted

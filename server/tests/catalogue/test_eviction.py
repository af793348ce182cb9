"""Which backbones leave so that another fits."""

from __future__ import annotations

import pytest

from midrib.server._catalogue.eviction import Resident, evictions
from midrib.wire import LimitExceededError


def resident(name: str, weight_bytes: int, last_used: float, *, movable: bool = True) -> Resident:
    return Resident(name, weight_bytes, last_used, movable)


def test_nothing_is_unloaded_while_there_is_room() -> None:
    """Free memory is used first."""
    assert evictions([resident("a", 60, 1)], 40, 100) == []


def test_the_least_recently_used_leave_first_and_no_more_than_needed() -> None:
    """Older ones go until it fits."""
    present = [resident("new", 30, 3), resident("old", 30, 1), resident("middle", 30, 2)]
    assert evictions(present, 50, 100) == ["old", "middle"]


def test_the_busy_and_the_pinned_stay() -> None:
    """However long ago they were used."""
    present = [resident("busy", 50, 0, movable=False), resident("idle", 50, 9)]
    assert evictions(present, 50, 100) == ["idle"]


def test_a_backbone_that_cannot_fit_is_refused() -> None:
    """No backbone is unloaded if that would not make enough room."""
    present = [resident("pinned", 60, 0, movable=False), resident("idle", 20, 1)]
    with pytest.raises(LimitExceededError, match=r"50 bytes of weights do not fit: the budget is 100.*\(pinned\)"):
        evictions(present, 50, 100)

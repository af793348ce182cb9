"""The backbone in process, at its best: with the threads and the pieces that suit this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import torch
from torch import Tensor, nn
from turns import Contender, take_turns

# Rows at a time; 0 is all at once. EfficientNet took twice as long for 8 at once as for 8 by 2 (measured): malloc gives
# large activations back to the kernel after each layer.
_PIECES: Final = (2, 8, 0)
# A choice that noise made would flatter the remote backbone.
_TRIAL_ROUNDS: Final = 3
_TRIAL_VALUES: Final = 16 * 3 * 224 * 224
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class LocalPlan:
    """How a batch is computed: intra-op threads, and rows at a time (0: all)."""

    threads: int
    piece: int

    def __str__(self) -> str:
        return f"{self.threads} thr." + (f", by {self.piece}" if self.piece else "")

    def bind(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module, called with so many rows at a time; its caller sets the threads."""
        if not self.piece:
            return module
        return lambda x: torch.cat([module(piece) for piece in torch.split(x, self.piece)])


def trial(x: Tensor) -> Tensor:
    """The rows of a batch that the ways are tried on: 16 images, or as much of another kind."""
    return x[: max(1, _TRIAL_VALUES // x[0].numel())]


class Ways:
    """The fastest ways for each backbone and size of batch, tried once. budget_s: for each figure."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s / 2
        self._known: dict[tuple[str, int], list[LocalPlan]] = {}

    def fastest(self, name: str, module: nn.Module, x: Tensor) -> list[LocalPlan]:
        """The ways for a batch like x, the fastest first; tried on its first rows."""
        some = trial(x)
        key = (name, len(some))
        if key not in self._known:
            self._known[key] = fastest_ways(module, some, self._budget_s)
        return self._known[key]


def fastest_ways(module: nn.Module, x: Tensor, budget_s: float) -> list[LocalPlan]:
    """The ways for a batch like x, the fastest first: by the best of its turns over x. budget_s: for each way.

    Their best, since noise has one sign: another process on the cores slows two threads, which wait for each other,
    five times and more (measured).
    """
    ways = [LocalPlan(threads, piece) for threads in sorted({1, CORES}) for piece in _PIECES if piece < len(x)]
    contenders = {way: Contender(way.threads, way.bind(module)) for way in ways}
    with torch.inference_mode():
        times = take_turns(contenders, repeat(x), budget_s=budget_s, least=_TRIAL_ROUNDS)
    return sorted(ways, key=lambda way: min(times[way]))

"""The backbone in process, at its best: with the threads and the pieces that suit this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from processes import seconds
from torch import Tensor, nn

_PIECES = (8, 0)  # rows at a time; 0 is all at once
_TRIAL_ROWS = 32
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Way:
    """How a batch is computed: intra-op threads, and rows at a time (0: all)."""

    threads: int
    piece: int

    def __str__(self) -> str:
        return f"{self.threads} thr." + (f", by {self.piece}" if self.piece else "")

    def bind(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module, called in this way."""
        torch.set_num_threads(self.threads)
        if not self.piece:
            return module
        return lambda x: torch.cat([module(piece) for piece in torch.split(x, self.piece)])


def best_way(module: nn.Module, x: Tensor, budget_s: float) -> Way:
    """The fastest way for a batch like x, tried on its first rows."""
    some = x[:_TRIAL_ROWS]
    ways = [Way(threads, piece) for threads in sorted({1, CORES}) for piece in _PIECES if piece < len(some)]
    with torch.inference_mode():
        return min(ways, key=lambda way: seconds(partial(way.bind(module), some), budget_s / 2))

"""The backbone in process, at its best: with the threads and the rows at a time that are fastest on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import torch
from interleaved import Contender, interleaved_times
from torch import Tensor, nn

# Rows at a time; 0 is all at once. EfficientNet took twice as long for 8 at once as for 8 by 2 (measured): malloc gives
# large activations back to the kernel after each layer.
_ROWS_AT_A_TIME: Final = (2, 8, 0)
# A plan chosen by noise would favour the remote backbone.
_TRIAL_ROUNDS: Final = 3
_TRIAL_VALUES: Final = 16 * 3 * 224 * 224
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class LocalPlan:
    """How a batch is computed: intra-op threads, and rows at a time (0: all)."""

    threads: int
    rows: int

    def __str__(self) -> str:
        return f"{self.threads} thr." + (f", by {self.rows}" if self.rows else "")

    def bind(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the module, called with `rows` at a time; its caller sets the threads."""
        if not self.rows:
            return module
        return lambda x: torch.cat([module(rows) for rows in torch.split(x, self.rows)])


def trial(x: Tensor) -> Tensor:
    """Return the rows of a batch on which plans are measured: 16 images, or as many values of another kind."""
    return x[: max(1, _TRIAL_VALUES // x[0].numel())]


class Plans:
    """The fastest plans for each backbone and size of batch, measured once. budget_s: for each figure."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s / 2
        self._measured: dict[tuple[str, int], list[LocalPlan]] = {}

    def fastest(self, name: str, module: nn.Module, x: Tensor) -> list[LocalPlan]:
        """Return the plans for a batch like x, the fastest first; measured on its first rows."""
        rows = trial(x)
        key = (name, len(rows))
        if key not in self._measured:
            self._measured[key] = fastest_plans(module, rows, self._budget_s)
        return self._measured[key]


def fastest_plans(module: nn.Module, x: Tensor, budget_s: float) -> list[LocalPlan]:
    """Return the plans for a batch like x, the one with the fastest figure first. budget_s: for each plan.

    The fastest figure counts because noise only slows: another process on the cores makes two threads, which wait for
    each other, five times slower and more (measured).
    """
    plans = [LocalPlan(threads, rows) for threads in sorted({1, CORES}) for rows in _ROWS_AT_A_TIME if rows < len(x)]
    contenders = {plan: Contender(plan.threads, plan.bind(module)) for plan in plans}
    with torch.inference_mode():
        times = interleaved_times(contenders, repeat(x), budget_s=budget_s, least=_TRIAL_ROUNDS)
    return sorted(plans, key=lambda plan: min(times[plan]))

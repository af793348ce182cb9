"""The backbone in this process, with the threads and the rows per pass that are fastest on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import torch
from torch import Tensor, nn
from turns import Contender, take_turns

# Rows per pass; 0 is all of them. EfficientNet took twice as long for 8 rows in one pass as for 8 by 2 (measured),
# because malloc returns large activations to the kernel after each layer.
_PASS_ROWS: Final = (2, 8, 0)
# Measure often enough: a wrong choice by noise would make the remote backbone look better.
_TRIAL_ROUNDS: Final = 3
_TRIAL_VALUES: Final = 16 * 3 * 224 * 224
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class LocalPlan:
    """How to compute a batch. pass_rows: rows per pass; 0 is all of them."""

    threads: int
    pass_rows: int

    def __str__(self) -> str:
        return f"{self.threads} thr." + (f", by {self.pass_rows}" if self.pass_rows else "")

    def bind(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the module as a function that computes `pass_rows` rows per pass; its caller sets the threads."""
        if not self.pass_rows:
            return module
        return lambda x: torch.cat([module(rows) for rows in torch.split(x, self.pass_rows)])


def trial(x: Tensor) -> Tensor:
    """Return the first rows of a batch, to try plans on: 16 images, or as many values of another kind."""
    return x[: max(1, _TRIAL_VALUES // x[0].numel())]


class LocalPlans:
    """The fastest plans for each backbone and batch size, measured once. budget_s: seconds per figure."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s / 2
        self._plans: dict[tuple[str, int], list[LocalPlan]] = {}

    def fastest(self, name: str, module: nn.Module, x: Tensor) -> list[LocalPlan]:
        """Return the plans for a batch like x, the fastest first; measured with its first rows."""
        some = trial(x)
        key = (name, len(some))
        if key not in self._plans:
            self._plans[key] = fastest_plans(module, some, self._budget_s)
        return self._plans[key]


def fastest_plans(module: nn.Module, x: Tensor, budget_s: float) -> list[LocalPlan]:
    """Return the plans for a batch like x, the fastest first, by the shortest measurement of each.

    The shortest, because noise only adds time: another process on the cores slows two threads, which wait for each
    other, by five times and more (measured).  budget_s: seconds per plan.
    """
    plans = [
        LocalPlan(threads, pass_rows)
        for threads in sorted({1, CORES})
        for pass_rows in _PASS_ROWS
        if pass_rows < len(x)
    ]
    contenders = {plan: Contender(plan.threads, plan.bind(module)) for plan in plans}
    with torch.inference_mode():
        times = take_turns(contenders, repeat(x), budget_s=budget_s, least=_TRIAL_ROUNDS)
    return sorted(plans, key=lambda plan: min(times[plan]))

"""Interleaved measurements: a machine's speed drifts within minutes, and so it affects all contenders alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import torch

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

FIGURE_S: Final = 0.05
# The OpenMP workers of the contender before spin for about 10 ms after its last call (measured), on a core of the next.
_REST_S: Final = 0.02


@dataclass(frozen=True)
class Contender(Generic[_T]):
    """A call on an input, and the intra-op threads that this process has meanwhile."""

    threads: int
    call: Callable[[_T], object]

    def seconds(self, x: _T) -> float:
        """Return the time of one call."""
        torch.set_num_threads(self.threads)
        began = time.perf_counter()
        self.call(x)
        return time.perf_counter() - began


def interleaved_times(
    contenders: Mapping[_K, Contender[_T]], inputs: Iterable[_T], *, budget_s: float, least: int
) -> dict[_K, list[float]]:
    """Return the seconds of each contender's call, one figure for each round; in a round all have the same input.

    inputs: the first is a warm-up that does not count; each of the following makes a round.
    budget_s: for each contender. Rounds go on until it is spent, and until there are `least`.
    Every second round goes backwards, so that no contender always follows the same one. A figure is the median of the
    calls that fit FIGURE_S, or the time of one call.
    """
    rounds = iter(inputs)
    warm_up = next(rounds)
    for contender in contenders.values():
        contender.seconds(warm_up)
    times: dict[_K, list[float]] = {key: [] for key in contenders}
    order = list(contenders)
    until = time.perf_counter() + budget_s * len(order)
    for done, x in enumerate(rounds):
        if done >= least and time.perf_counter() >= until:
            break
        for key in order:
            times[key].append(_figure(contenders[key], x))
        order.reverse()
    return times


def paired_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Return the median, over the rounds, of a contender's time divided by another's in the same round."""
    return statistics.median(time_s / base_s for time_s, base_s in zip(times, base, strict=True))


def _figure(contender: Contender[_T], x: _T) -> float:
    time.sleep(_REST_S)
    until = time.perf_counter() + FIGURE_S
    times = [contender.seconds(x)]
    while time.perf_counter() < until:
        times.append(contender.seconds(x))
    return statistics.median(times)

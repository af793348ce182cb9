"""Contenders that take turns: a machine's speed drifts within minutes, and what it does to neighbours is alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import torch

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

TURN_S: Final = 0.05
# The OpenMP workers of the contender before spin for about 10 ms after its last call (measured), on a core of the next.
_REST_S: Final = 0.02


@dataclass(frozen=True)
class Contender(Generic[_T]):
    """What takes turns: a call on an input, and the intra-op threads that this process has meanwhile."""

    threads: int
    call: Callable[[_T], object]

    def seconds(self, given: _T) -> float:
        """The time of one call."""
        torch.set_num_threads(self.threads)
        began = time.perf_counter()
        self.call(given)
        return time.perf_counter() - began


def take_turns(
    contenders: Mapping[_K, Contender[_T]], inputs: Iterable[_T], *, budget_s: float, least: int
) -> dict[_K, list[float]]:
    """The seconds of each contender's call, one figure a round; in a round all get the same input.

    inputs: the first warms everyone up and does not count; each of the others makes a round.
    budget_s: for each contender. Rounds go on until it is spent, and until there are `least`.
    Every other round goes backwards, so that nobody always follows the same one. A figure is the median of as many
    calls as fit TURN_S, or of one.
    """
    rounds = iter(inputs)
    warm_up = next(rounds)
    for contender in contenders.values():
        contender.seconds(warm_up)
    times: dict[_K, list[float]] = {key: [] for key in contenders}
    order = list(contenders)
    until = time.perf_counter() + budget_s * len(order)
    for done, given in enumerate(rounds):
        if done >= least and time.perf_counter() >= until:
            break
        for key in order:
            times[key].append(_turn(contenders[key], given))
        order.reverse()
    return times


def paired_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """The median, over the rounds, of one contender's time divided by another's in the same round."""
    return statistics.median(one / other for one, other in zip(times, base, strict=True))


def _turn(contender: Contender[_T], given: _T) -> float:
    time.sleep(_REST_S)
    until = time.perf_counter() + TURN_S
    times = [contender.seconds(given)]
    while time.perf_counter() < until:
        times.append(contender.seconds(given))
    return statistics.median(times)

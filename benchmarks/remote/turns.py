"""Measure contenders in rotation, because the speed of a machine drifts within minutes."""

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
# The OpenMP threads of a contender spin for about 10 ms after its last call (measured) and would slow the next one.
_REST_S: Final = 0.02


@dataclass(frozen=True)
class Contender(Generic[_T]):
    """A call to measure, and the number of intra-op threads for it."""

    threads: int
    call: Callable[[_T], object]

    def seconds(self, argument: _T) -> float:
        """Return the seconds of one call."""
        torch.set_num_threads(self.threads)
        began = time.perf_counter()
        self.call(argument)
        return time.perf_counter() - began


def take_turns(
    contenders: Mapping[_K, Contender[_T]], inputs: Iterable[_T], *, budget_s: float, least: int
) -> dict[_K, list[float]]:
    """Return the seconds of each contender's call in each round; all calls of a round have the same input.

    inputs: the first warms all contenders up and does not count; each other input makes a round.
    budget_s: seconds per contender. Rounds are added until it is spent, and until there are `least`.
    Every second round is in reverse order, so that no contender always follows the same one. A figure is the median of
    the calls that fit TURN_S, at least one.
    """
    rounds = iter(inputs)
    warm_up = next(rounds)
    for contender in contenders.values():
        contender.seconds(warm_up)
    times: dict[_K, list[float]] = {key: [] for key in contenders}
    order = list(contenders)
    until = time.perf_counter() + budget_s * len(order)
    for done, argument in enumerate(rounds):
        if done >= least and time.perf_counter() >= until:
            break
        for key in order:
            times[key].append(_turn(contenders[key], argument))
        order.reverse()
    return times


def paired_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Return the median over the rounds of one contender's time divided by the other's in the same round."""
    return statistics.median(time_s / base_s for time_s, base_s in zip(times, base, strict=True))


def _turn(contender: Contender[_T], argument: _T) -> float:
    time.sleep(_REST_S)
    until = time.perf_counter() + TURN_S
    times = [contender.seconds(argument)]
    while time.perf_counter() < until:
        times.append(contender.seconds(argument))
    return statistics.median(times)

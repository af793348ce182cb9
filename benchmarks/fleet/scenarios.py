"""The scenarios: the same fleet and load, with different events."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from replicas import CAPACITY, Clock, Replica, Request, Traffic

from clients import Client, Fleet, Rules
from midrib.remote._connect import balance, retries
from midrib.wire import Array

REPLICAS: Final = 100
CLIENTS: Final = 10_000
# The share of the fleet's capacity that the clients ask for.
LOAD: Final = 0.6
RATE: Final = LOAD * CAPACITY * REPLICAS
SECONDS: Final = 40.0
# The load begins at 0. The measurement begins here, when most clients have opened their streams.
WARM_S: Final = 8.0
EVENT_S: Final = 15.0
_SEED: Final = 7

Steps = Iterator[tuple[float, Callable[[], object]]]


@dataclass(frozen=True)
class Outcome:
    """The result of a run.  latencies_s: [requests], infinite for those without an answer.  hedged: messages."""

    submitted_at: Array
    latencies_s: Array
    traffic: Traffic
    hedged: int


@dataclass(frozen=True)
class Scenario:
    """Events of a fleet.  steps: (time, action) pairs in the order of time.  ends_s: when the last event is over."""

    title: str
    steps: Callable[[list[Replica]], Steps] = lambda _: iter(())
    ends_s: float = EVENT_S
    load: float = LOAD
    rules: Rules = field(default_factory=Rules)


def run(scenario: Scenario) -> Outcome:
    """Simulate a scenario. The same random numbers are drawn in each run, also by the client's rules."""
    source = random.Random(_SEED)  # noqa: S311 - a simulation
    with patch.object(balance, "_RANDOM", source), patch.object(retries, "_RANDOM", source):
        return _run(scenario, source)


def _run(scenario: Scenario, source: random.Random) -> Outcome:
    clock, traffic = Clock(), Traffic.of(REPLICAS, SECONDS)
    replicas = [Replica(clock, index, traffic) for index in range(REPLICAS)]
    fleet = Fleet(clock, replicas, traffic, scenario.rules)
    clients = [Client(fleet, f"client {number}") for number in range(CLIENTS)]
    requests: list[Request] = []
    clock.environment.process(_load(clock, clients, requests, rate=scenario.load * CAPACITY * REPLICAS, source=source))
    for when, action in scenario.steps(replicas):
        clock.later(when, action)
    clock.environment.run(until=SECONDS)
    submitted_at = np.array([request.submitted_at for request in requests])
    done_at = np.array([request.done_at for request in requests])
    return Outcome(submitted_at, done_at - submitted_at, traffic, fleet.hedged)


def _load(
    clock: Clock, clients: list[Client], requests: list[Request], *, rate: float, source: random.Random
) -> Iterator[Any]:
    """Submit `rate` requests a second at random times, each from a random client."""
    while True:
        yield clock.environment.timeout(source.expovariate(rate))
        requests.append(Request(clock.now))
        source.choice(clients).submit(requests[-1])


def _outage(count: int, seconds: float) -> Callable[[list[Replica]], Steps]:
    """Return the steps in which some replicas crash together and return together."""

    def steps(replicas: list[Replica]) -> Steps:
        for replica in replicas[:count]:
            yield EVENT_S, replica.crash
            yield EVENT_S + seconds, replica.restart

    return steps


def _upgrade(at_once: int, restart_s: float) -> Callable[[list[Replica]], Steps]:
    """Return the steps of a rolling upgrade.  at_once: replicas that drain together."""

    def steps(replicas: list[Replica]) -> Steps:
        for replica in replicas:
            begins = EVENT_S - 5.0 + replica.index // at_once * restart_s
            yield begins, replica.drain
            yield begins + restart_s, replica.restart

    return steps


def _slow(times: float) -> Callable[[list[Replica]], Steps]:
    """Return the step in which the first replica becomes slow."""

    def steps(replicas: list[Replica]) -> Steps:
        yield EVENT_S, lambda: setattr(replicas[0], "slowness", times)

    return steps


def _old_wait_s(error: BaseException | None, failures: int = 1, failing: int = 1) -> float:
    """Return the back-off of before: each connection on its schedule, however many others fail."""
    return retries.wait_s(error, failures, min(failing, 1))


# The rules before this benchmark: the first replicas in a fixed order, and a back-off for each connection. One message
# took the whole queue.
FIXED: Final = Rules(order=list, divide=lambda *_: 1, choose=lambda machines, most, _: machines[:most])
EACH: Final = Rules(divide=lambda *_: 1, wait_s=_old_wait_s)
SCENARIOS: Final = {
    "steady": Scenario("steady load"),
    "fixed": Scenario("0.5 % of the load, replicas in a fixed order (before)", load=0.005, rules=FIXED),
    "crash": Scenario("1 replica is gone for 10 s", _outage(1, 10.0), EVENT_S + 10.0),
    "crash30": Scenario("30 replicas are gone for 10 s", _outage(30, 10.0), EVENT_S + 10.0),
    "outage": Scenario("all replicas are gone for 5 s", _outage(REPLICAS, 5.0), EVENT_S + 5.0),
    "each": Scenario(
        "all gone for 5 s, back-off for each connection (before)", _outage(REPLICAS, 5.0), EVENT_S + 5.0, rules=EACH
    ),
    "upgrade": Scenario("rolling upgrade, 10 at a time, 2 s each", _upgrade(10, 2.0), EVENT_S + 15.0),
    "slow": Scenario("1 replica is 10 times slower", _slow(10.0)),
    "hedged": Scenario("1 replica is 10 times slower, hedge_s=0.5", _slow(10.0), rules=Rules(hedge_s=0.5)),
}

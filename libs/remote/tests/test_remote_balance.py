"""The rules by which many clients share servers: pure functions, which benchmarks/fleet runs as a fleet."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import pytest

from midrib.remote._connect.balance import by_load, choose_machines
from midrib.remote._connect.retries import wait_s
from midrib.wire import OverloadedError, UnavailableError

MACHINES = [f"10.0.0.{number}" for number in range(100)]
CLIENTS = [f"client {number}" for number in range(1000)]


@dataclass(frozen=True)
class Link:
    name: str
    busy: int = 0


def test_the_connection_with_the_fewest_items_comes_first() -> None:
    """Whether or not it is the first address."""
    assert [link.name for link in by_load([Link("a", 2), Link("b", 0), Link("c", 1)])] == ["b", "c", "a"]


def test_idle_connections_share_single_items() -> None:
    """Else every client with one item at a time used the first address only."""
    links = [Link("a"), Link("b"), Link("c"), Link("d")]
    firsts = Counter(by_load(links)[0].name for _ in range(1000))
    assert min(firsts.values()) > 150
    assert set(firsts) == {"a", "b", "c", "d"}


def test_a_fleet_of_clients_uses_every_machine_alike() -> None:
    """Each client has 16 of 100; before, all of them had the same 16."""
    uses = Counter(machine for client in CLIENTS for machine in choose_machines(MACHINES, 16, client))
    assert (len(uses), sum(uses.values())) == (100, 16_000)
    assert max(uses.values()) < 1.4 * 160


@pytest.mark.parametrize("client", CLIENTS[:20])
def test_only_a_removed_machine_is_replaced_in_the_choice(client: str) -> None:
    """The other connections stay."""
    before = choose_machines(MACHINES, 16, client)
    gone = before[5]
    after = choose_machines([machine for machine in MACHINES if machine != gone], 16, client)
    assert set(before) - set(after) == {gone}
    assert len(after) == 16


def test_few_machines_are_all_chosen() -> None:
    """In their order, for every client."""
    assert choose_machines(["c", "a", "b"], 16, "x") == ["a", "b", "c"]


@pytest.mark.parametrize("failing", [1, 2, 16])
def test_a_client_makes_no_more_attempts_for_more_lost_servers(failing: int) -> None:
    """16 lost servers are tried 16 times less often each: a fleet that returns meets no herd of clients."""
    waits = [wait_s(UnavailableError("refused"), 20, failing) for _ in range(500)]
    attempts_per_s = failing / (sum(waits) / len(waits))
    assert 0.75 < attempts_per_s < 0.85


def test_lost_servers_are_not_tried_at_the_same_time() -> None:
    """After a long outage of 64 connections, one of them is tried within seconds, not after a minute."""
    waits = sorted(wait_s(UnavailableError("refused"), 20, 64) for _ in range(64))
    assert waits[0] < 30
    assert max(later - earlier for earlier, later in itertools.pairwise(waits)) < 40


def test_attempts_of_clients_that_failed_together_are_spread() -> None:
    """Over half of the delay."""
    waits = sorted(wait_s(UnavailableError("refused"), 20) for _ in range(500))
    assert waits[0] < 1.05
    assert waits[-1] > 1.45


def test_a_server_decides_when_it_is_asked_again() -> None:
    """Its retry_after holds for any number of lost servers."""
    waits = [wait_s(OverloadedError("full", retry_after=0.2), 20, 16) for _ in range(500)]
    assert 0.2 <= min(waits) <= max(waits) <= 0.3


@pytest.mark.parametrize("retry_after", [0.0, 1e-6])
def test_a_server_that_wants_the_next_attempt_at_once_is_not_flooded(retry_after: float) -> None:
    """Attempts without a pause used a whole core of the client."""
    assert min(wait_s(OverloadedError("full", retry_after=retry_after)) for _ in range(100)) >= 0.05

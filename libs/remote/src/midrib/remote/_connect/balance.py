"""The servers that a client uses when several answer alike. `benchmarks/fleet` simulates these rules."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Connected(Protocol):
    """A connection to a server."""

    @property
    def busy(self) -> int:
        """The number of items in flight."""
        ...


class Receiving(Protocol):
    """A connection whose server may have room."""

    @property
    def slots(self) -> int:
        """How many messages its server can use now."""
        ...


_C = TypeVar("_C", bound=Connected)
# The system's: users seed the one of the module `random`, and a fork copies any other.
_RANDOM = random.SystemRandom()


def by_load(connections: Sequence[_C]) -> list[_C]:
    """Return connections in the order in which they may take an item: those with the fewest items in flight first.

    Equals are in random order. In a fixed order, clients with one item at a time would all use the same server.
    """
    if len(connections) < 2:  # most clients have one connection, and call this for each call
        return list(connections)
    return sorted(connections, key=lambda connection: (connection.busy, _RANDOM.random()))


def count_slots(connections: Sequence[Receiving], queued: int) -> int:
    """Return how many messages should divide the queue, so that each server has some of it; 1 for one server.

    At each call, every connection looks at the queue: a queue of at most one part needs no count of all of them.

    queued: the parts in the queue.
    """
    if len(connections) <= 1 or queued <= 1:
        return 1
    return max(1, sum(connection.slots for connection in connections))


def choose_machines(machines: Sequence[str], most: int, client: str) -> list[str]:
    """Return at most `most` machines, sorted: those that this client prefers.

    Clients prefer different machines, so that a fleet of clients uses all of them. If a machine is added or removed, at
    most one machine of the choice changes (rendezvous hashing: Thaler and Ravishankar, 1998).

    client: a text that differs between clients.
    """

    def rank(machine: str) -> bytes:
        return hashlib.blake2b(f"{client} {machine}".encode(), digest_size=8).digest()

    return sorted(sorted(machines, key=rank)[:most])

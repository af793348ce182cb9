"""`midrib bench --plan`: how many replicas a load needs, and their cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# The share of its measured rate at which a replica should run: above it, queues and latencies grow fast.
_UTILIZATION: Final = 0.7
_ROWS: Final = 1_000_000


@dataclass(frozen=True)
class Capacity:
    """The replicas for a load.

    load_rows_per_s: the rate to answer.  replica_rows_per_s: the highest measured rate of one server.
    replicas: how many servers answer that load at 70 % of their rate.
    cost_per_hour: the cost of all replicas; None if that of one is unknown.  cost_per_million_rows: at that load.
    """

    load_rows_per_s: float
    replica_rows_per_s: float
    replicas: int
    cost_per_hour: float | None = None
    cost_per_million_rows: float | None = None

    def __str__(self) -> str:
        text = (
            f"{_rate(self.load_rows_per_s)} rows/s need {self.replicas} replica{'s' if self.replicas > 1 else ''} of "
            f"{_rate(self.replica_rows_per_s)} rows/s, each at most {_UTILIZATION:.0%} busy"
        )
        if self.cost_per_hour is None:
            return text
        per_million = _price(self.cost_per_million_rows or 0.0)
        return f"{text}: {_price(self.cost_per_hour)} an hour, {per_million} for a million rows"


def capacity_for(load: float, rate: float, replica_cost: float | None = None) -> Capacity:
    """Return the replicas for a load.

    load, rate: rows per second of all clients, and of one server.  replica_cost: the cost of one server, an hour.
    """
    replicas = max(1, math.ceil(load / (_UTILIZATION * rate)))
    if replica_cost is None:
        return Capacity(load, rate, replicas)
    cost = replicas * replica_cost
    return Capacity(load, rate, replicas, cost, cost * _ROWS / (3600 * load))


def _rate(rows_per_s: float) -> str:
    """Return a rate without an exponent: whole rows from 1,000 on, five digits below."""
    return f"{rows_per_s:,.0f}" if rows_per_s >= 1000 else f"{rows_per_s:.5g}"


def _price(price: float) -> str:
    """Return a price with cents from 1 on, and with three digits below."""
    return f"{price:,.2f}" if price >= 1 else f"{price:.3g}"

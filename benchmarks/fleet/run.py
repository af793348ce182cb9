"""Simulate a fleet of 100 replicas and 10,000 clients; write results.md and results.png beside this file.

Usage: python benchmarks/fleet/run.py [SCENARIO ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from picture import draw
from replicas import BIN_S, CAPACITY
from rules import rules
from scenarios import (
    CLIENTS,
    EVENT_S,
    LOAD,
    RATE,
    REPLICAS,
    SCENARIOS,
    SECONDS,
    WARM_S,
    Outcome,
    Scenario,
    run,
)

from midrib.wire import Array

HERE: Final = Path(__file__).parent
# Requests of the last seconds are left out: the run ends before their answers may come.
_LAST_S: Final = 3.0
_TIMEOUT_S: Final = 30.0
_HEAD: Final = """# A fleet of {replicas} replicas and {clients:,} clients, simulated

`python benchmarks/fleet/run.py`: {rate:,.0f} single rows a second, {load:.0%} of the replicas' capacity.
A replica computes {capacity:.0f} rows a second, about a ViT-Tiny on two CPU cores; a full batch takes {batch:.0f} ms.
The clients follow the rules of `midrib.remote` ([README](README.md)). Events begin at {event:.0f} s.
p50 / p99 in ms, by the time at which a request was submitted.

| scenario | before | during | after | over 1 s | load spread | rows peak | connects peak |
|---|---|---|---|---|---|---|---|
"""
_NOTES: Final = """
- *During* lasts from the event to its end, at least 5 s. *Over 1 s*: the share of all requests that took longer.
- *Load spread*: the rows of the busiest replica over the mean of all, before the event.
- *Rows peak*: the most rows that the fleet received in 0.1 s after the event began, over the mean before it.
- *Connects peak*: the most attempts to open a stream in 0.1 s after the event began.
"""


def measure(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    """Return the figures of a run."""
    ends = max(scenario.ends_s, EVENT_S + 5.0)
    spans = [(WARM_S, EVENT_S), (EVENT_S, ends), (ends, SECONDS - _LAST_S)]
    first, event = round(WARM_S / BIN_S), round(EVENT_S / BIN_S)
    rows, connects = outcome.traffic.rows, outcome.traffic.connects
    per_replica, fleet = rows[:, first:event].sum(axis=1), rows.sum(axis=0)
    timed = outcome.latencies_s[(outcome.submitted_at >= WARM_S) & (outcome.submitted_at < spans[-1][1])]
    return {
        "title": scenario.title,
        "percentiles_ms": [_percentiles(outcome, *span) for span in spans],
        "over_1_s": float((timed > 1.0).mean()),
        "spread": float(per_replica.max() / per_replica.mean()),
        "rows": float(fleet[event:].max() / fleet[first:event].mean()),
        "connects": int(connects[event:].max()),
        "fleet": (fleet / fleet[first:event].mean()).round(3).tolist(),
        "p99_ms": [_percentiles(outcome, second, second + 1.0)[1] for second in range(int(SECONDS - _LAST_S))],
        "per_replica": np.sort(per_replica / per_replica.mean()).round(3).tolist(),
        "hedged": outcome.hedged,
    }


def _percentiles(outcome: Outcome, begins: float, ends: float) -> list[float]:
    """Return the median and the 99th percentile, in ms, of the requests that were submitted in a span; [] for none."""
    latencies = outcome.latencies_s[(outcome.submitted_at >= begins) & (outcome.submitted_at < ends)]
    if not len(latencies):
        return []
    values: Array = 1000 * np.percentile(np.minimum(latencies, _TIMEOUT_S), [50, 99])
    return [float(value) for value in values.round()]


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    head = _HEAD.format(
        replicas=REPLICAS,
        clients=CLIENTS,
        rate=RATE,
        load=LOAD,
        capacity=CAPACITY,
        event=EVENT_S,
        batch=16e3 / CAPACITY,
    )
    lines = []
    for figure in figures.values():
        spans = [" / ".join(f"{value:.0f}" for value in span) or "—" for span in figure["percentiles_ms"]]
        lines.append(
            f"| {figure['title']} | {' | '.join(spans)} | {figure['over_1_s']:.2%} | {figure['spread']:.2f} | "
            f"{figure['rows']:.1f} | {figure['connects']:,} |\n"
        )
    return head + "".join(lines) + _NOTES


def main() -> None:
    """Run the scenarios that are named, or all; figures of earlier runs stay in results.json."""
    store = HERE / "results.json"
    figures = json.loads(store.read_text()) if store.exists() else {}
    for name in sys.argv[1:] or SCENARIOS:
        sys.stderr.write(f"{name} ...\n")
        figures[name] = measure(SCENARIOS[name], run(SCENARIOS[name]))
        figures["rules"] = rules()
        store.write_text(json.dumps(figures) + "\n")
    figures = {name: figures[name] for name in SCENARIOS if name in figures}
    (HERE / "results.md").write_text(table(figures))
    draw(figures, HERE / "results.png")


if __name__ == "__main__":
    main()

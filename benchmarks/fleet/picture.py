"""Draw results.png: load spread, the p99 over time, and the rows that a fleet receives after an outage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from replicas import BIN_S
from scenarios import EVENT_S


def draw(figures: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw three panels."""
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (spread, latency, herd) = pyplot.subplots(1, 3, figsize=(17, 4.5))
    for name in {"steady", "fixed"} & figures.keys():
        spread.plot(figures[name]["per_replica"], label=figures[name]["title"])
    spread.set(title="Rows of each replica over their mean", xlabel="replica, by load")
    for name, result in figures.items():
        if name not in ("fixed", "each"):
            latency.plot(result["p99_ms"], label=result["title"])
    latency.set(title="p99 by second, ms", xlabel="s", yscale="log")
    for name in {"outage", "each"} & figures.keys():
        rows = figures[name]["fleet"]
        herd.plot([BIN_S * number for number in range(len(rows))], rows, label=figures[name]["title"])
    herd.set(title="Rows that the fleet receives, over the mean", xlabel="s", xlim=(EVENT_S - 2, EVENT_S + 15))
    for axis in (spread, latency, herd):
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)

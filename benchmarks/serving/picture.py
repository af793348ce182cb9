"""Draw results.png, the rate of every contender with one panel per workload, and summary.png, three of the panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from contenders import CONTENDERS
from results import Results, median
from works import WORKS, Setting, Work

_COLOURS = {"ours": "#2e7d32", "rival": "#90a4ae", "limit": "#e0c068"}


# Single rows of many callers, batches of rows, and batches of images.
_SUMMARY = (("W1", Setting(1, 64)), ("W2", Setting(64, 8)), ("W3", Setting(1, 32)))


def draw(results: Results, path: Path) -> None:
    """Draw horizontal bars: ours, rivals and limits in three colours, one panel for each setting of each work."""
    _draw(results, path, _measured(results))


def draw_summary(results: Results, path: Path) -> None:
    """Draw three panels, with the limits too: for a README. Draws nothing if none of them was measured."""
    panels = [(work, setting) for work, setting in _measured(results) if (work.name, setting) in _SUMMARY]
    if panels:
        _draw(results, path, panels)


def _measured(results: Results) -> list[tuple[Work, Setting]]:
    return [
        (work, setting)
        for work in WORKS
        for setting in work.settings
        if any(
            (measured.work, measured.rows, measured.concurrency) == (work.name, setting.rows, setting.concurrency)
            for measured in results.measurements
        )
    ]


def _draw(results: Results, path: Path, panels: Sequence[tuple[Work, Setting]]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(6 * columns, 3.2 * rows), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _panel(axis, results, *panel)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _panel(axis: mpl.axes.Axes, results: Results, work: Work, setting: Setting) -> None:
    bars = [
        (contender, rate)
        for contender in CONTENDERS
        if (rate := median(results.of(work.name, contender.name, setting), lambda measured: measured.rate))
    ]
    bars.sort(key=lambda bar: bar[1])
    names = [contender.name for contender, _ in bars]
    drawn = axis.barh(names, [rate for _, rate in bars], color=[_COLOURS[contender.kind] for contender, _ in bars])
    axis.bar_label(drawn, [f"{rate:,.0f}" for _, rate in bars], padding=3, fontsize=7)
    axis.set_title(f"{work.name}: {work.title}\n{setting} (rows a request x callers), rows/s", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.margins(x=0.15)

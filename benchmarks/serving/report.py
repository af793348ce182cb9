"""Write results.json with every measurement, results.md with the medians, results.png and summary.png."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from contenders import CONTENDERS, IN_PROCESS_1, IN_PROCESS_N, Contender
from picture import draw, draw_summary
from results import Measurement, Results, median
from targets import Verdict, verdicts
from works import BULK, WORKS, Setting, Work

_MEBI = 2**20


def write(results: Results, folder: Path) -> None:
    """Write the files of a run."""
    judged = verdicts(results)
    contents = {**results.as_dict(), "verdicts": [asdict(verdict) for verdict in judged]}
    (folder / "results.json").write_text(json.dumps(contents, indent=1) + "\n")
    (folder / "results.md").write_text("\n".join([*_document(results, judged), ""]))
    if results.measurements:
        draw(results, folder / "results.png")
        draw_summary(results, folder / "summary.png")


def _document(results: Results, judged: Sequence[Verdict]) -> Iterable[str]:
    yield "# Serving: one run"
    yield ""
    yield "Written by `benchmarks/serving/run.py`; every figure is the median of the rounds of this run."
    yield "Headings are rows per request x callers. Rates are rows per second; CPU is that of the server, its children"
    yield "included, for one request; memory is the sum of its processes' peaks, so pages that they share count twice."
    yield ""
    yield from _table(["condition", ""], [[name, str(value)] for name, value in results.conditions.items()])
    if judged:
        yield from ("", "## Targets", "")
        yield from _table(["measurement", "target", "result", ""], [_judgement(verdict) for verdict in judged])
    for work in WORKS:
        if any(measured.work == work.name for measured in results.measurements):
            yield from _work(results, work)
    if results.failures:
        yield from ("", "## Failures", "")
        yield from _table(
            ["measurement", "error"], [[what, why.replace("|", "/")] for what, why in results.failures.items()]
        )


def _judgement(verdict: Verdict) -> list[str]:
    words = {True: "reached", False: "**not reached**", None: ""}
    return [verdict.what, verdict.bound, verdict.got, words[verdict.reached]]


def _work(results: Results, work: Work) -> Iterable[str]:
    yield from ("", f"## {work.name}: {work.title}", "")
    head = ["", *(f"{setting}: rows/s, p50 / p99 ms, CPU us" for setting in work.settings), "peak MiB"]
    if len(work.models) > 1:
        head.append("bulk rows/s")
    rows = [_row(results, work, contender) for contender in CONTENDERS if work.name in contender.works]
    yield from _table(head, [row for row in rows if any(row[1:])])


def _row(results: Results, work: Work, contender: Contender) -> list[str]:
    peak = results.peaks.get(work.name, {}).get(contender.server)
    cells = [_cell(results, work, contender, setting) for setting in work.settings]
    row = [contender.name, *cells, f"{peak / _MEBI:.0f}" if peak else ""]
    if len(work.models) > 1:
        # In process nothing else runs: the limit of the bulk.
        limit = median(results.of(work.name, contender.name, Setting(BULK.rows, 1)), lambda measured: measured.rate)
        beside = median(results.of(work.name, contender.name, work.settings[0]), lambda measured: measured.bulk_rate)
        bulk = beside or limit
        row.append(f"{bulk:.1f}" if bulk else "")
    return row


def _cell(results: Results, work: Work, contender: Contender, setting: Setting) -> str:
    measured_setting = setting
    if contender.name in (IN_PROCESS_1, IN_PROCESS_N):
        measured_setting = Setting(setting.rows, 1)
        if setting != next(candidate for candidate in work.settings if candidate.rows == setting.rows):
            return ""  # without a server the number of callers has no meaning
    measurements = results.of(work.name, contender.name, measured_setting)
    if not measurements:
        failed = {
            f"{work.name}, {contender.name}, {measured_setting}",
            f"{contender.server}: start",
            f"{contender.server}: install",
        }
        return "failed" if failed & set(results.failures) else ""
    return " ".join(
        (
            f"{_figure(measurements, 'rate')},",
            f"{_figure(measurements, 'p50_ms')} / {_figure(measurements, 'p99_ms')},",
            _figure(measurements, "cpu_us"),
        )
    )


def _figure(measurements: Sequence[Measurement], field: str) -> str:
    value = median(measurements, lambda measured: getattr(measured, field))
    return f"{value:,.0f}" if value is None or value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"

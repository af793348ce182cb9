"""What the server must reach, as ratios within one run, and whether it did."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contenders import (
    CONTENDERS,
    ECHO_ANSWER,
    ECHO_STREAM,
    ECHO_UNARY,
    IN_PROCESS_1,
    IN_PROCESS_N,
    MIDRIB,
    MIDRIB_STUBS,
)
from results import Measurement, Results, median
from works import BULK, Setting

_ALONE, _MANY = Setting(1, 1), Setting(1, 64)
_SIXTY_FOUR_ROWS = Setting(64, 8)
_CROWD, _BATCHES = Setting(1, 32), Setting(16, 2)
_SLACK_MS = 5.0
_START_S = 1.0
_RIVALS = tuple(one.name for one in CONTENDERS if one.kind == "rival")
_GRPC_RIVALS = tuple(one.name for one in CONTENDERS if one.kind == "rival" and one.grpc)


@dataclass(frozen=True)
class Verdict:
    """One target. reached: None where there is none, and the figure is only told."""

    what: str
    bound: str
    got: str
    reached: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """On everything that was measured; a target whose measurements are missing is missing here too."""
    crowd = _Compared(results, "W1", _MANY)
    rows = _Compared(results, "W2", _SIXTY_FOUR_ROWS)
    return [
        *crowd.at_least(5.0, MIDRIB, [ECHO_UNARY]),
        *crowd.at_least(4.0, MIDRIB, _RIVALS),
        *crowd.at_least(0.65, MIDRIB_STUBS, [ECHO_UNARY]),
        *crowd.at_least(1.0, MIDRIB_STUBS, _GRPC_RIVALS),
        *_lone_caller(results, MIDRIB),
        *_lone_caller(results, MIDRIB_STUBS),
        *rows.at_least(0.70, MIDRIB, [ECHO_STREAM]),
        *rows.at_least(None, MIDRIB, [ECHO_ANSWER]),
        *rows.at_least(1.5, MIDRIB, _RIVALS),
        *_of_in_process(results, _CROWD),
        *_of_in_process(results, _BATCHES),
        *_interactive(results),
        *_memory(results),
        *_start(results),
    ]


@dataclass(frozen=True)
class _Compared:
    """Rates at one setting of one work."""

    results: Results
    work: str
    setting: Setting

    def at_least(self, least: float | None, ours: str, others: Sequence[str]) -> Iterator[Verdict]:
        """Our rate over the best of the others', the median of the rounds' ratios; others that are missing are not
        the best."""
        mine = self.results.of(self.work, ours, self.setting)
        rates = {name: median(self.results.of(self.work, name, self.setting), _rate) for name in others}
        best = max((name for name in others if rates[name]), key=lambda name: rates[name] or 0.0, default=None)
        if not mine or best is None:
            return
        got = statistics.median(self.results.ratios(mine, self.results.of(self.work, best, self.setting)))
        whom = best if len(others) == 1 else f"the best of {len(others)} ({best})"
        yield _judged(f"{self.work}, {self.setting}: rate of {ours} / {whom}", got, least)


def _lone_caller(results: Results, ours: str) -> Iterator[Verdict]:
    mine = median(results.of("W1", ours, _ALONE), _p50)
    echo = median(results.of("W1", ECHO_UNARY, _ALONE), _p50)
    if mine and echo:
        ratio = mine / echo
        yield Verdict(f"W1, {_ALONE}: p50 of {ours} / {ECHO_UNARY}", "< 1.5", f"{ratio:.2f}", ratio < 1.5)


def _of_in_process(results: Results, setting: Setting) -> Iterator[Verdict]:
    """Against the best that the module does in process, whatever its batch and its threads."""
    alone = [
        rate
        for name in (IN_PROCESS_1, IN_PROCESS_N)
        for rows in (1, BULK.rows)
        if (rate := median(results.of("W3", name, Setting(rows, 1)), _rate))
    ]
    mine = median(results.of("W3", MIDRIB, setting), _rate)
    if alone and mine:
        yield _judged(f"W3, {setting}: rate of {MIDRIB} / the best in process", mine / max(alone), 0.93)


def _interactive(results: Results) -> Iterator[Verdict]:
    batches = [
        took
        for name in (IN_PROCESS_1, IN_PROCESS_N)
        if (took := median(results.of("W5", name, Setting(BULK.rows, 1)), _p50))
    ]
    mine = median(results.of("W5", MIDRIB, _ALONE), lambda one: one.p99_ms)
    if batches and mine:
        bound = min(batches) + _SLACK_MS
        yield Verdict(
            "W5: p99 of one row beside a bulk, in ms; a bulk batch's own time + 5 ms",
            f"< {bound:.0f}",
            f"{mine:.1f}",
            mine < bound,
        )


def _memory(results: Results) -> Iterator[Verdict]:
    if results.memory:
        mebi = 2**20
        grown = (results.memory["peak"] - results.memory["ready"]) / mebi
        bound = 4 * results.memory["largest_batch"] / mebi
        what = "memory: growth under a flood of clients, in MiB; 4 of the largest batches of the MLP"
        yield Verdict(what, f"<= {bound:.0f}", f"{grown:.0f}", grown <= bound)


def _start(results: Results) -> Iterator[Verdict]:
    if results.starts:
        got = statistics.median(ready - torch for ready, torch in results.starts)
        yield Verdict("start: ready after torch's import, in s", f"< {_START_S:g}", f"{got:.2f}", got < _START_S)


def _judged(what: str, got: float, least: float | None) -> Verdict:
    if least is None:
        return Verdict(what, "told only", f"{got:.2f}", None)
    return Verdict(what, f">= {least:g}", f"{got:.2f}", got >= least)


def _rate(one: Measurement) -> float:
    return one.rate


def _p50(one: Measurement) -> float:
    return one.p50_ms

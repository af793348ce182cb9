"""The targets of the server, as ratios within one run, and whether it reached them."""

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

_LONE, _MANY = Setting(1, 1), Setting(1, 64)
_SIXTY_FOUR_ROWS = Setting(64, 8)
_CROWD, _BATCHES = Setting(1, 32), Setting(16, 2)
_SLACK_MS = 5.0
_START_S = 1.0
_FLOOD_MEBI = 64
_RIVALS = tuple(contender.name for contender in CONTENDERS if contender.kind == "rival")
_GRPC_RIVALS = tuple(each.name for each in CONTENDERS if each.kind == "rival" and each.grpc)


@dataclass(frozen=True)
class Verdict:
    """A figure and its target. reached: None if it has no target.  what: the name of the figure."""

    what: str
    bound: str
    got: str
    reached: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """Return the verdicts on all figures whose measurements exist."""
    crowd = _Compared(results, "W1", _MANY)
    rows = _Compared(results, "W2", _SIXTY_FOUR_ROWS)
    return [
        *crowd.at_least(5.0, MIDRIB, [ECHO_UNARY]),
        *crowd.at_least(4.0, MIDRIB, _RIVALS),
        *crowd.at_least(1.0, MIDRIB_STUBS, [ECHO_UNARY]),
        *crowd.at_least(1.5, MIDRIB_STUBS, _GRPC_RIVALS),
        *_lone_caller(results, MIDRIB),
        *_lone_caller(results, MIDRIB_STUBS),
        *rows.at_least(1.0, MIDRIB, [ECHO_STREAM]),
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
    """Rates at one setting of one workload."""

    results: Results
    work: str
    setting: Setting

    def at_least(self, least: float | None, contender: str, rivals: Sequence[str]) -> Iterator[Verdict]:
        """Judge the rate of a contender divided by that of its best rival: the median of the rounds' ratios."""
        measurements = self.results.of(self.work, contender, self.setting)
        rates = {name: median(self.results.of(self.work, name, self.setting), _rate) for name in rivals}
        best = max((name for name in rivals if rates[name]), key=lambda name: rates[name] or 0.0, default=None)
        if not measurements or best is None:
            return
        ratio = statistics.median(self.results.ratios(measurements, self.results.of(self.work, best, self.setting)))
        base = best if len(rivals) == 1 else f"the best of {len(rivals)} ({best})"
        yield _judged(f"{self.work}, {self.setting}: rate of {contender} / {base}", ratio, least)


def _lone_caller(results: Results, contender: str) -> Iterator[Verdict]:
    p50_ms = median(results.of("W1", contender, _LONE), _p50)
    echo_ms = median(results.of("W1", ECHO_UNARY, _LONE), _p50)
    if p50_ms and echo_ms:
        ratio = p50_ms / echo_ms
        yield Verdict(f"W1, {_LONE}: p50 of {contender} / {ECHO_UNARY}", "< 1.5", f"{ratio:.2f}", ratio < 1.5)


def _of_in_process(results: Results, setting: Setting) -> Iterator[Verdict]:
    """Compare with the best rate of the module in process, over batch sizes and threads."""
    rates = [
        rate
        for name in (IN_PROCESS_1, IN_PROCESS_N)
        for rows in (1, BULK.rows)
        if (rate := median(results.of("W3", name, Setting(rows, 1)), _rate))
    ]
    served = median(results.of("W3", MIDRIB, setting), _rate)
    if rates and served:
        yield _judged(f"W3, {setting}: rate of {MIDRIB} / the best in process", served / max(rates), 0.93)


def _interactive(results: Results) -> Iterator[Verdict]:
    batches = [
        batch_ms
        for name in (IN_PROCESS_1, IN_PROCESS_N)
        if (batch_ms := median(results.of("W5", name, Setting(BULK.rows, 1)), _p50))
    ]
    p99_ms = median(results.of("W5", MIDRIB, _LONE), lambda measured: measured.p99_ms)
    if batches and p99_ms:
        bound = min(batches) + _SLACK_MS
        yield Verdict(
            "W5: p99 of one row beside a bulk, in ms; the time of a bulk batch + 5 ms",
            f"< {bound:.0f}",
            f"{p99_ms:.1f}",
            p99_ms < bound,
        )


def _memory(results: Results) -> Iterator[Verdict]:
    if results.memory:
        mebi = 2**20
        grown = (results.memory["peak"] - results.memory["ready"]) / mebi
        bound = _FLOOD_MEBI + 4 * results.memory["largest_batch"] / mebi
        what = "memory: growth under a flood of clients, in MiB; 64, and 4 of the largest batches of the MLP"
        yield Verdict(what, f"<= {bound:.0f}", f"{grown:.0f}", grown <= bound)


def _start(results: Results) -> Iterator[Verdict]:
    if results.starts:
        got = statistics.median(ready - torch for ready, torch in results.starts)
        yield Verdict("start: ready after torch's import, in s", f"< {_START_S:g}", f"{got:.2f}", got < _START_S)


def _judged(what: str, got: float, least: float | None) -> Verdict:
    if least is None:
        return Verdict(what, "no target", f"{got:.2f}", None)
    return Verdict(what, f">= {least:g}", f"{got:.2f}", got >= least)


def _rate(measured: Measurement) -> float:
    return measured.rate


def _p50(measured: Measurement) -> float:
    return measured.p50_ms

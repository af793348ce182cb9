"""What a run finds out, and the medians of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from works import Setting


@dataclass(frozen=True)
class Measurement:
    """One contender at one setting in one round.

    rate: rows a second.  cpu_us: of the server, for one request.  bulk_rate: of the bulk beside it (W5), rows a second.
    """

    work: str
    contender: str
    rows: int
    concurrency: int
    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    calls: int
    cpu_us: float
    bulk_rate: float | None = None


@dataclass
class Results:
    """All of a run.

    failures: what could not be measured, and why.  peaks: bytes, by work and server.  loads: the machine's load
    average after each round.  starts: seconds from the command to ready, and of torch's import alone, in pairs.
    memory: bytes of the served MLP before, after, and at the peak of a flood.
    """

    conditions: dict[str, Any] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, dict[str, int]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    starts: list[tuple[float, float]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)

    def of(self, work: str, contender: str, setting: Setting) -> list[Measurement]:
        """The measurements of one row of the report, by round."""
        return [
            one
            for one in self.measurements
            if (one.work, one.contender, one.rows, one.concurrency)
            == (work, contender, setting.rows, setting.concurrency)
        ]

    def ratios(self, ours: Sequence[Measurement], theirs: Sequence[Measurement]) -> list[float]:
        """Ours over theirs, round by round: what the machine did meanwhile is in both."""
        by_round = {one.round: one.rate for one in theirs}
        return [one.rate / by_round[one.round] for one in ours if one.round in by_round]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What to run. pythons: by server, those that could be installed.  logs: a folder for the servers' output."""

    rounds: int
    seconds: float
    pythons: dict[str, Path]
    logs: Path


def median(measurements: Sequence[Measurement], value: Callable[[Measurement], float | None]) -> float | None:
    """The median over the rounds; None where there is none."""
    values = [found for one in measurements if (found := value(one)) is not None]
    return statistics.median(values) if values else None

"""The results of a run, and their medians."""

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

    rate: rows per second.  cpu_us: of the server, per request.  bulk_rate: rows per second of the bulk (W5).
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
    """The results of a run.

    failures: the error of each failed measurement.  peaks: bytes, by workload and server.
    loads: the machine's load average after each round.
    starts: pairs of seconds, from the command to ready, and of an import of torch.
    memory: bytes of the MLP's server before, after, and at the peak of a flood.
    """

    conditions: dict[str, Any] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, dict[str, int]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    starts: list[tuple[float, float]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)

    def of(self, work: str, contender: str, setting: Setting) -> list[Measurement]:
        """Return the measurements of a contender at a setting, by round."""
        return [
            measured
            for measured in self.measurements
            if (measured.work, measured.contender, measured.rows, measured.concurrency)
            == (work, contender, setting.rows, setting.concurrency)
        ]

    def ratios(self, measurements: Sequence[Measurement], base: Sequence[Measurement]) -> list[float]:
        """Return the ratios of the rates in the same round, so that other load on the machine affects both."""
        base_rates = {measured.round: measured.rate for measured in base}
        return [measured.rate / base_rates[measured.round] for measured in measurements if measured.round in base_rates]

    def as_dict(self) -> dict[str, Any]:
        """Return the results as plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """The options of a run. pythons: by server, if it could be installed.  logs: a folder for the servers' output."""

    rounds: int
    seconds: float
    pythons: dict[str, Path]
    logs: Path


def median(measurements: Sequence[Measurement], value: Callable[[Measurement], float | None]) -> float | None:
    """Return the median over the rounds; None without values."""
    values = [number for measured in measurements if (number := value(measured)) is not None]
    return statistics.median(values) if values else None

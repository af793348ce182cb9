"""The state of the front processes, for Prometheus and for `midrib status`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from midrib.server._front.processes.front import Front

_LABELS = ["front"]


class FrontCollector(Collector):
    """Reads the front processes when Prometheus asks.

    fronts: the running processes, by their numbers.  restarts: returns how many were replaced.
    """

    def __init__(self, fronts: Mapping[int, Front], restarts: Callable[[], int]) -> None:
        self._fronts = fronts
        self._restarts = restarts

    def collect(self) -> Iterable[Metric]:
        """Return the metric families."""
        pid = GaugeMetricFamily("midrib_front_pid", "The process id of a front process.", labels=_LABELS)
        connections = GaugeMetricFamily("midrib_front_connections", "Open gRPC connections.", labels=_LABELS)
        calls = GaugeMetricFamily("midrib_front_calls", "Calls that run.", labels=_LABELS)
        processor = CounterMetricFamily("midrib_front_processor_seconds", "Processor time.", labels=_LABELS)
        restarts = CounterMetricFamily("midrib_front_restarts", "Front processes replaced.")
        restarts.add_metric([], self._restarts())
        for number, front in sorted(self._fronts.items()):
            labels = [str(number)]
            pid.add_metric(labels, front.pid)
            connections.add_metric(labels, front.connections)
            calls.add_metric(labels, front.calls)
            processor.add_metric(labels, processor_s(front.pid))
        yield from (pid, connections, calls, processor, restarts)


def processor_s(pid: int) -> float:
    """Return the seconds of processor time that a process has used; 0 if they are unknown. Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

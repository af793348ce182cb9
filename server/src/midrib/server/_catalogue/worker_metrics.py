"""The state of each backbone and of its worker processes, for Prometheus and for `midrib status`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from midrib.server._catalogue.entry import CatalogueEntry

_LABELS = ["backbone", "replica"]


class WorkerCollector(Collector):
    """Reads the entries of a catalogue when Prometheus asks."""

    def __init__(self, entries: Callable[[], Iterable[CatalogueEntry]]) -> None:
        self._entries = entries

    def collect(self) -> Iterable[Metric]:
        """Return the metric families."""
        state = GaugeMetricFamily("midrib_backbone_state", "1 for the present state.", labels=["backbone", "state"])
        running = GaugeMetricFamily("midrib_worker_running", "0 while a worker is being replaced.", labels=_LABELS)
        pid = GaugeMetricFamily("midrib_worker_pid", "The process id of a worker.", labels=_LABELS)
        memory = GaugeMetricFamily("midrib_worker_memory_bytes", "Resident memory of a worker.", labels=_LABELS)
        plans = GaugeMetricFamily("midrib_compute_plan", "1 for the plan on a CPU.", labels=["backbone", "plan"])
        for entry in self._entries():
            state.add_metric([entry.name, entry.state.value], 1)
            if entry.loaded is not None and (plan := entry.loaded.plan) is not None:
                plans.add_metric([entry.name, plan.text], 1)
            for number, worker in enumerate(entry.loaded.worker_states() if entry.loaded is not None else ()):
                labels = [entry.name, str(number)]
                running.add_metric(labels, int(worker.running))
                if worker.running:
                    pid.add_metric(labels, worker.pid)
                    memory.add_metric(labels, worker.memory_bytes())
        yield from (state, plans, running, pid, memory)

"""The status of a server, computed from two readings of its metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

from midrib.remote._command.status.metrics import Scrape


@dataclass
class WorkerStatus:
    """A worker process. pid, memory_bytes: 0 while it is being replaced."""

    running: bool = False
    pid: int = 0
    memory_bytes: int = 0


@dataclass
class BackboneStatus:
    """A served name.

    queue_items: items that wait.  rows_per_s: answered rows.  failed_items: since the load.  restarts: of its workers.
    plan: how it computes on a CPU, in words; "" on a GPU.  workers: one per replica; none if threads of the server
    compute.
    """

    name: str
    state: str = "unknown"
    queue_items: int = 0
    rows_per_s: float = 0.0
    failed_items: int = 0
    restarts: int = 0
    plan: str = ""
    workers: list[WorkerStatus] = field(default_factory=list)


@dataclass
class TenantStatus:
    """The holder of a token.  rows_per_s: answered.  rows, failed_items: since the server started."""

    name: str
    rows_per_s: float = 0.0
    rows: int = 0
    failed_items: int = 0


@dataclass
class FrontStatus:
    """A process that carries connections.  front: its number.  processor_s: its seconds of processor time."""

    front: int
    pid: int = 0
    connections: int = 0
    calls: int = 0
    processor_s: float = 0.0


@dataclass(frozen=True)
class ServerStatus:
    """A server.

    memory_bytes: what the server's process uses, without workers.  device_memory_bytes: what it uses of each GPU.
    fronts: the processes that carry its connections, if they are not the server's.
    """

    backbones: list[BackboneStatus]
    tenants: list[TenantStatus]
    memory_bytes: int
    device_memory_bytes: dict[str, int]
    fronts: list[FrontStatus]


def status_of(before: Scrape, after: Scrape) -> ServerStatus:
    """Return the status at the second reading, with the rates since the first one; names are sorted."""
    memory = sum(int(value) for _, value in after.of("process_resident_memory_bytes"))
    devices = {labels["device"]: int(value) for labels, value in after.of("midrib_device_memory_bytes")}
    return ServerStatus(_backbones(before, after), _tenants(before, after), memory, devices, _fronts(after))


def _backbones(before: Scrape, after: Scrape) -> list[BackboneStatus]:
    states = {labels["backbone"]: labels["state"] for labels, _ in after.of("midrib_backbone_state")}
    backbones = {name: BackboneStatus(name, state) for name, state in sorted(states.items())}
    rates = _rates("midrib_rows_total", "backbone", before, after)
    for name, backbone in backbones.items():
        backbone.rows_per_s = rates.get(name, 0.0)
        backbone.queue_items = _value(after, "midrib_queue_items", backbone=name)
        backbone.failed_items = _value(after, "midrib_items_total", backbone=name, outcome="failed")
        backbone.restarts = _value(after, "midrib_worker_restarts_total", backbone=name)
        backbone.workers = _workers(after, name)
    for labels, _ in after.of("midrib_compute_plan"):
        if labels["backbone"] in backbones:
            backbones[labels["backbone"]].plan = labels["plan"]
    return list(backbones.values())


def _workers(after: Scrape, name: str) -> list[WorkerStatus]:
    running = {
        int(labels["replica"]): bool(value)
        for labels, value in after.of("midrib_worker_running")
        if labels["backbone"] == name
    }
    return [
        WorkerStatus(
            running[replica],
            _value(after, "midrib_worker_pid", backbone=name, replica=str(replica)),
            _value(after, "midrib_worker_memory_bytes", backbone=name, replica=str(replica)),
        )
        for replica in sorted(running)
    ]


def _tenants(before: Scrape, after: Scrape) -> list[TenantStatus]:
    names = sorted({labels["token"] for labels, _ in after.of("midrib_token_items_total")})
    rates = _rates("midrib_token_rows_total", "token", before, after)
    return [
        TenantStatus(
            name,
            rates.get(name, 0.0),
            _value(after, "midrib_token_rows_total", token=name),
            _value(after, "midrib_token_items_total", token=name, outcome="failed"),
        )
        for name in names
    ]


def _fronts(after: Scrape) -> list[FrontStatus]:
    numbers = sorted(int(labels["front"]) for labels, _ in after.of("midrib_front_pid"))
    processor_s = {labels["front"]: value for labels, value in after.of("midrib_front_processor_seconds_total")}
    return [
        FrontStatus(
            number,
            _value(after, "midrib_front_pid", front=str(number)),
            _value(after, "midrib_front_connections", front=str(number)),
            _value(after, "midrib_front_calls", front=str(number)),
            processor_s.get(str(number), 0.0),
        )
        for number in numbers
    ]


def _value(scrape: Scrape, metric: str, **labels: str) -> int:
    return int(scrape.samples.get(metric, {}).get(tuple(sorted(labels.items())), 0))


def _rates(metric: str, label: str, before: Scrape, after: Scrape) -> dict[str, float]:
    """Return the increase of a counter per second, by a label; a counter that began again has counted from 0."""
    earlier = {labels[label]: value for labels, value in before.of(metric)}
    seconds = after.seconds - before.seconds
    rates: dict[str, float] = {}
    for labels, value in after.of(metric):
        start = earlier.get(labels[label], 0.0)
        rates[labels[label]] = (value - start if value >= start else value) / seconds if seconds > 0 else 0.0
    return rates

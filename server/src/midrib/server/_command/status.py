"""`midrib status`: the backbones of a running server and their worker processes, from its metrics."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

import typer
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_TIMEOUT_S = 10.0
_MEBI = 2**20
_REFUSED = (401, 403)
_START = "start the server with --http-port and give that port"


@dataclass
class WorkerStatus:
    """A worker process. pid, memory_bytes: 0 while it is being replaced."""

    running: bool = False
    pid: int = 0
    memory_bytes: int = 0


@dataclass
class BackboneStatus:
    """A served name. restarts: of its workers.  workers: one per replica; none if threads of the server compute."""

    name: str
    state: str = "unknown"
    restarts: int = 0
    workers: list[WorkerStatus] = field(default_factory=list)


@dataclass
class FrontStatus:
    """A process that carries connections. front: its number.  processor_s: its seconds of processor time."""

    front: int
    pid: int = 0
    connections: int = 0
    calls: int = 0
    processor_s: float = 0.0


def print_status(address: str, *, token: str | None, as_json: bool) -> None:
    """Print the status of the server whose HTTP port is at an address, "host:port".

    Raises ConnectionError if no server answers there.
    """
    metrics = read_metrics(address, token)
    backbones = read_status(metrics)
    if as_json:
        typer.echo(json.dumps([asdict(backbone) for backbone in backbones], indent=2))
        return
    table = Table(
        "backbone", "state", "restarts", "worker", "pid", "MiB", box=None, header_style="bold", pad_edge=False
    )
    for backbone in backbones:
        cells = escape(backbone.name), backbone.state, str(backbone.restarts)
        for number, worker in enumerate(backbone.workers):
            state = "running" if worker.running else "being replaced"
            memory = f"{worker.memory_bytes / _MEBI:.0f}"
            table.add_row(*(cells if not number else ("", "", "")), state, str(worker.pid or ""), memory)
        if not backbone.workers:
            table.add_row(*cells, "thread" if backbone.state == "ready" else "", "", "")
    Console().print(table)
    if fronts := read_fronts(metrics):
        table = Table("front", "pid", "connections", "calls", "processor s", box=None, pad_edge=False)
        for front in fronts:
            numbers = front.front, front.pid, front.connections, front.calls
            table.add_row(*map(str, numbers), f"{front.processor_s:.1f}")
        Console().print(table)


def read_status(metrics: str) -> list[BackboneStatus]:
    """Return the status of each backbone, ordered by name, from metrics in Prometheus' text form."""
    backbones: dict[str, BackboneStatus] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if name := sample.labels.get("backbone"):
                _take(backbones.setdefault(name, BackboneStatus(name)), sample)
    return [backbones[name] for name in sorted(backbones)]


def read_fronts(metrics: str) -> list[FrontStatus]:
    """Return the status of each front process, ordered by number, from metrics in Prometheus' text form."""
    fronts: dict[str, FrontStatus] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            kind = sample.name.removeprefix("midrib_front_")
            if kind in _FRONT_FIELDS and (number := sample.labels.get("front")) is not None:
                status = fronts.setdefault(number, FrontStatus(int(number)))
                name, convert = _FRONT_FIELDS[kind]
                setattr(status, name, convert(sample.value))
    return sorted(fronts.values(), key=lambda status: status.front)


def _take(backbone: BackboneStatus, sample: Sample) -> None:
    kind = sample.name.removeprefix("midrib_")
    if kind == "backbone_state":
        backbone.state = sample.labels["state"]
    elif kind == "worker_restarts_total":
        backbone.restarts = int(sample.value)
    elif kind.startswith("worker_") and (replica := sample.labels.get("replica")) is not None:
        worker = _worker(backbone, int(replica))
        setattr(worker, kind.removeprefix("worker_"), _TYPES[kind](sample.value))


_FRONT_FIELDS: dict[str, tuple[str, Any]] = {
    "pid": ("pid", int),
    "connections": ("connections", int),
    "calls": ("calls", int),
    "processor_seconds_total": ("processor_s", float),
}
_TYPES: dict[str, Any] = {"worker_running": bool, "worker_pid": int, "worker_memory_bytes": int}


def _worker(backbone: BackboneStatus, replica: int) -> WorkerStatus:
    missing: Iterable[int] = range(len(backbone.workers), replica + 1)
    backbone.workers += [WorkerStatus() for _ in missing]
    return backbone.workers[replica]


def read_metrics(address: str, token: str | None) -> str:
    """Return the metrics of a server in Prometheus' text form. Raises ConnectionError if no server answers."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    address = address.removeprefix("http://").rstrip("/")
    request = urllib.request.Request(f"http://{address}/metrics", headers=headers)  # noqa: S310 - http by construction
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310
            return str(reply.read().decode())
    except HTTPException as error:
        raise ConnectionError(
            f"{address} does not speak HTTP: give the HTTP port of the server, not its gRPC port"
        ) from error
    except HTTPError as error:
        advice = "give a token that may read them, with --token" if error.code in _REFUSED else _START
        raise ConnectionError(f"no metrics at http://{address}/metrics (HTTP {error.code}): {advice}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)  # a URLError wraps the error of the connection
        problem = getattr(reason, "strerror", None) or str(reason)
        advice = "check the host" if isinstance(reason, socket.gaierror) else _START
        raise ConnectionError(f"no metrics at http://{address}/metrics ({problem}): {advice}") from error

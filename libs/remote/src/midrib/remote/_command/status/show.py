"""Print the status of a server: as tables, as JSON, once or live."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from midrib.remote._command.status.metrics import MetricsReader, Scrape
from midrib.remote._command.status.report import BackboneStatus, FrontStatus, ServerStatus, WorkerStatus, status_of
from midrib.remote._command.tables import stdout_console, table_of

_MEBI = 2**20


def show_once(reader: MetricsReader, interval: float, *, as_json: bool) -> None:
    """Print the status, with the rates of an interval of seconds. Raises ConnectionError if no server answers."""
    typer.echo(f"reading {reader.url} twice, {interval:g} s apart ...", err=True)
    before = reader.read()
    time.sleep(interval)
    status = status_of(before, reader.read())
    if as_json:
        typer.echo(json.dumps(asdict(status), indent=2))
    else:
        console = stdout_console()
        console.print(tables(status, console.width))


def watch_status(reader: MetricsReader, interval: float, *, as_json: bool) -> None:
    """Print the status every interval of seconds until Ctrl-C; on a terminal in place.

    Raises ConnectionError if no server answers at first. If it ends later, that is shown until it answers again.
    """
    typer.echo(f"reading {reader.url} every {interval:g} s, Ctrl-C ends ...", err=True)
    if as_json:
        for status in _statuses(reader, interval):
            typer.echo(json.dumps({"error": str(status)} if isinstance(status, ConnectionError) else asdict(status)))
        return
    console = stdout_console()
    if not console.is_terminal:
        for status in _statuses(reader, interval):
            console.print(_shown(status, console.width))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        for status in _statuses(reader, interval):
            live.update(_shown(status, console.width), refresh=True)


def _statuses(reader: MetricsReader, interval: float) -> Iterator[ServerStatus | ConnectionError]:
    """Yield the status of each interval, or the error while the server does not answer."""
    before: Scrape | None = reader.read()
    while True:
        time.sleep(interval)
        try:
            after = reader.read()
        except ConnectionError as error:
            before = None
            yield error
            continue
        if before is not None:
            yield status_of(before, after)
        before = after


def _shown(status: ServerStatus | ConnectionError, width: int) -> RenderableType:
    return Text(f"{status}; asking again ...") if isinstance(status, ConnectionError) else tables(status, width)


def tables(status: ServerStatus, width: int) -> RenderableType:
    """Return the tables of backbones, tenants and front processes, and a line about memory.

    width: that of the terminal, in columns.
    """
    head = ("backbone", "state", "queue", "rows/s", "failed", "MiB", "restarts", "workers", "plan")
    parts: list[RenderableType] = [table_of(head, [_cells(backbone) for backbone in status.backbones], width)]
    if not status.backbones:
        parts = [Text("no backbones: `midrib load NAME --server grpc://host:port` loads one")]
    if status.tenants:
        rows = [
            (tenant.name, f"{tenant.rows_per_s:,.4g}", f"{tenant.rows:,}", str(tenant.failed_items))
            for tenant in status.tenants
        ]
        parts += [Text(), table_of(("tenant", "rows/s", "rows", "failed"), rows, width)]
    if status.fronts:
        columns = ("front", "pid", "connections", "calls", "processor s")
        parts += [Text(), table_of(columns, [_front_cells(front) for front in status.fronts], width)]
    devices = "".join(f"; {name} {_mebi(size)} MiB" for name, size in status.device_memory_bytes.items())
    return Group(*parts, Text(), Text(f"memory of the server's process {_mebi(status.memory_bytes)} MiB{devices}"))


def _cells(backbone: BackboneStatus) -> tuple[str, ...]:
    memory = sum(worker.memory_bytes for worker in backbone.workers)
    return (
        backbone.name,
        backbone.state,
        str(backbone.queue_items),
        f"{backbone.rows_per_s:,.4g}",
        str(backbone.failed_items),
        _mebi(memory) if backbone.workers else "",
        str(backbone.restarts),
        ", ".join(map(_worker, backbone.workers)) or ("threads" if backbone.state == "ready" else ""),
        backbone.plan,
    )


def _front_cells(front: FrontStatus) -> tuple[str, ...]:
    numbers = (front.front, front.pid, front.connections, front.calls)
    return (*map(str, numbers), f"{front.processor_s:.1f}")


def _worker(worker: WorkerStatus) -> str:
    return f"pid {worker.pid}" if worker.running else "being replaced"


def _mebi(size: int) -> str:
    return f"{size / _MEBI:,.0f}"

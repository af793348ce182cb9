"""`midrib bench`: how fast one served backbone answers, one caller and many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from midrib.remote import AsyncClient
from midrib.server._command.server_process import server_process
from midrib.server._compute.examples import example_rows
from midrib.wire import Array

# Of a measurement's time, before anything counts.
_WARM_UP = 0.2


@dataclass(frozen=True)
class Measured:
    """What so many callers at once saw, each asking again as soon as it was answered.

    rows: of one call.  rows_per_s, calls_per_s: answered.  p50_ms, p99_ms: of a call.
    """

    rows: int
    concurrency: int
    rows_per_s: float
    calls_per_s: float
    p50_ms: float
    p99_ms: float


def run(target: str, *, rows: int, concurrency: Sequence[int], seconds: float, as_json: bool) -> None:
    """Measure a grpc:// URL, or what a server process of its own then serves; print a line for each concurrency.

    target: a URL, or what `midrib serve` takes.  rows: of one call.  seconds: of each measurement.
    Raises the MidribError of the first call that fails, RuntimeError if the server process does not come up.
    """
    with contextlib.ExitStack() as stack:
        url = target if "://" in target else stack.enter_context(server_process(target)).url
        measured = uvloop.run(_measure(url, rows=rows, concurrency=concurrency, seconds=seconds))
    if as_json:
        typer.echo(json.dumps({"url": url, "measured": [asdict(one) for one in measured]}, indent=2))
    else:
        typer.echo(url)
        _print_table(measured)


async def _measure(url: str, *, rows: int, concurrency: Sequence[int], seconds: float) -> list[Measured]:
    scheme, _, rest = url.partition("://")
    server, _, name = rest.partition("/")
    if not name:
        raise ValueError(f"{url!r} names no backbone: write grpc://host:port/namespace/name")
    async with AsyncClient(f"{scheme}://{server}") as client:
        payload = example_rows((await client.describe(name)).takes, rows)
        return [await _under(client, name, payload, callers, seconds) for callers in concurrency]


async def _under(client: AsyncClient, name: str, payload: Array, callers: int, seconds: float) -> Measured:
    """One line: callers in a closed loop. What ends within the seconds counts, and at least one call each."""
    start = time.monotonic() + _WARM_UP * seconds
    stop = start + seconds
    took_ms: list[float] = []

    async def call() -> None:
        counted = False
        while not counted or time.monotonic() < stop:
            began = time.monotonic()
            await client.embed(name, payload)
            ended = time.monotonic()
            if ended >= start:
                took_ms.append(1e3 * (ended - began))
                counted = True

    await asyncio.gather(*(call() for _ in range(callers)))
    calls_per_s = len(took_ms) / (time.monotonic() - start)
    p50, p99 = np.percentile(took_ms, [50, 99])
    return Measured(len(payload), callers, len(payload) * calls_per_s, calls_per_s, float(p50), float(p99))


def _print_table(measured: Sequence[Measured]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("rows a call", "callers", "rows/s", "calls/s", "p50 ms", "p99 ms"):
        table.add_column(head, justify="right")
    for one in measured:
        figures = (one.rows_per_s, one.calls_per_s, one.p50_ms, one.p99_ms)
        table.add_row(str(one.rows), str(one.concurrency), *(f"{figure:,.5g}" for figure in figures))
    Console().print(table)

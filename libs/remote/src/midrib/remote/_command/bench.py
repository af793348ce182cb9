"""`midrib bench`: the rates and latencies of a served backbone, for one caller and for many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from midrib.oip.v2 import inference_pb2
from midrib.remote._clients.async_client import AsyncClient
from midrib.remote._command.capacity import Capacity, capacity_for
from midrib.remote._command.names import server_module
from midrib.remote._command.options import Access
from midrib.remote._command.payloads import Payload, PayloadSource
from midrib.remote._connect.address import endpoint_from, split_url
from midrib.remote._connect.unary import UnaryCalls
from midrib.wire import UnsupportedError

_WARM_UP: Final = 0.2  # of a measurement's time, before anything counts
# Per caller, used alternately: a payload is never in flight twice.
_PAYLOADS: Final = 2
# The server's count may differ from ours by this share: a call that fails and is repeated is computed twice.
_COUNT_MARGIN: Final = 0.02


@dataclass(frozen=True)
class BenchPlan:
    """The measurements.

    rows: per call.  concurrency: the numbers of callers.  seconds: for each number of callers.
    load: rows per second for which to plan replicas; None for no plan.  replica_cost: the cost of a replica, an hour.
    """

    rows: int
    concurrency: tuple[int, ...]
    seconds: float
    load: float | None = None
    replica_cost: float | None = None


@dataclass(frozen=True)
class Measurement:
    """The answers to several concurrent callers, each of which calls again as soon as it is answered.

    rows: per call.  rows_per_s, calls_per_s: the answered ones.  p50_ms, p99_ms: the latency of a call.
    answered_rows: the total, warm-up included.  computed_rows, computed_batches: in the same time, counted by the
    server; None if it has no counters.
    """

    rows: int
    concurrency: int
    rows_per_s: float
    calls_per_s: float
    p50_ms: float
    p99_ms: float
    answered_rows: int
    computed_rows: int | None
    computed_batches: int | None


def run(target: str, plan: BenchPlan, access: Access, *, imports: Sequence[str] | None, as_json: bool) -> None:
    """Measure a grpc:// URL, or a backbone that a server process serves for the measurement; print the figures.

    target: a URL, or an argument of `midrib serve`.  imports: modules that register backbones, for that server.
    Raises the MidribError of the first call that fails, RuntimeError if the server process does not start.
    """
    with contextlib.ExitStack() as stack:
        url = target
        if "://" not in target:
            typer.echo(f"starting a server for {target} ...", err=True)
            serving = server_module("_command.server_process", f"a server for {target}").server_process
            options = [argument for name in imports or () for argument in ("--import", name)]
            url = stack.enter_context(serving(target, *options)).url
        typer.echo(f"measuring {url}, {plan.seconds:g} s for each number of callers ...", err=True)
        measurements = asyncio.run(_measure(url, plan, access))
    _print(url, measurements, _capacity(plan, measurements), as_json=as_json)
    for line in measurements:
        _check_counts(line)


def _capacity(plan: BenchPlan, measurements: Sequence[Measurement]) -> Capacity | None:
    """Return the replicas for the plan's load, by the highest measured rate."""
    if plan.load is None:
        return None
    return capacity_for(plan.load, max(line.rows_per_s for line in measurements), plan.replica_cost)


def _print(url: str, measurements: Sequence[Measurement], capacity: Capacity | None, *, as_json: bool) -> None:
    if as_json:
        planned = {} if capacity is None else {"plan": asdict(capacity)}
        measured = [asdict(line) for line in measurements]
        typer.echo(json.dumps({"url": url, "measured": measured, **planned}, indent=2))
        return
    typer.echo(url)
    _print_table(measurements)
    if capacity is not None:
        typer.echo(str(capacity))


def _check_counts(line: Measurement) -> None:
    """Warn on stderr if the server has computed fewer or more rows than were answered."""
    if line.computed_rows is None or abs(line.computed_rows - line.answered_rows) <= _COUNT_MARGIN * line.answered_rows:
        return
    reason = (
        "some answers were not computed (a cache?), so these are not rates of the backbone"
        if line.computed_rows < line.answered_rows
        else "other clients call this backbone, or calls were repeated, so it can do more than these rates"
    )
    counts = f"{line.answered_rows} rows were answered and {line.computed_rows} computed"
    typer.secho(f"midrib: {line.concurrency} callers: {counts}: {reason}", fg=typer.colors.YELLOW, err=True)


async def _measure(url: str, plan: BenchPlan, access: Access) -> list[Measurement]:
    address, name = split_url(url)
    counters = _Counters(address, name, access)
    async with access.async_client(address) as client:
        source = PayloadSource((await client.describe(name)).takes, plan.rows)
        callers = _Callers(client, name, source)
        return [await callers.measure(count, plan, counters) for count in plan.concurrency]


class _Counters:
    """The server's counters of computed rows and batches."""

    def __init__(self, address: str, name: str, access: Access) -> None:
        arguments: dict[str, Any] = access.arguments()
        timeout = arguments.pop("timeout")
        self._calls = UnaryCalls(endpoint_from(address, **arguments), timeout)
        self._request = inference_pb2.ModelStatisticsRequest(name=name)

    async def read(self) -> tuple[int, int] | None:
        """Return (rows, batches) since the backbone was loaded; None if they are unknown, or of several servers."""
        endpoint = self._calls.endpoint
        if len(endpoint.addresses) > 1 or endpoint.connections > 1:
            return None
        method = "/inference.GRPCInferenceService/ModelStatistics"
        try:
            response = await self._calls.run_async(
                lambda: self._calls.invoke(method, self._request, inference_pb2.ModelStatisticsResponse)
            )
        except UnsupportedError:
            return None
        (statistics,) = response.model_stats
        return statistics.inference_count, statistics.execution_count


class _Callers:
    """Callers in a closed loop; no two of their payloads are equal."""

    def __init__(self, client: AsyncClient, name: str, source: PayloadSource) -> None:
        self._client = client
        self._name = name
        self._source = source
        self._payloads: list[list[Payload]] = []

    async def measure(self, callers: int, plan: BenchPlan, counters: _Counters) -> Measurement:
        """Measure a number of callers: the calls that end after the warm-up, at least one per caller."""
        while len(self._payloads) < callers:
            self._payloads.append([self._source.make() for _ in range(_PAYLOADS)])
        before = await counters.read()
        start = time.monotonic() + _WARM_UP * plan.seconds
        loops = [self._loop(self._payloads[number], start, start + plan.seconds) for number in range(callers)]
        answers = await asyncio.gather(*loops)
        seconds = time.monotonic() - start
        after = await counters.read()
        latencies_ms = [latency for loop in answers for latency in loop.latencies_ms]
        p50, p99 = np.percentile(latencies_ms, [50, 99])
        computed = (None, None) if before is None or after is None else (after[0] - before[0], after[1] - before[1])
        return Measurement(
            plan.rows,
            callers,
            plan.rows * len(latencies_ms) / seconds,
            len(latencies_ms) / seconds,
            float(p50),
            float(p99),
            plan.rows * sum(loop.calls for loop in answers),
            *computed,
        )

    async def _loop(self, payloads: list[Payload], start: float, stop: float) -> _Answers:
        latencies_ms: list[float] = []
        calls = 0
        while not latencies_ms or time.monotonic() < stop:
            began = time.monotonic()
            await self._client.embed(self._name, **payloads[calls % len(payloads)].arguments)
            ended = time.monotonic()
            calls += 1
            if ended >= start:
                latencies_ms.append(1e3 * (ended - began))
        return _Answers(calls, latencies_ms)


@dataclass(frozen=True)
class _Answers:
    """The answers to one caller.  calls: their number.  latencies_ms: those of the calls after the warm-up."""

    calls: int
    latencies_ms: list[float]


def _print_table(measurements: Sequence[Measurement]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("rows a call", "callers", "rows/s", "calls/s", "p50 ms", "p99 ms", "rows a batch"):
        table.add_column(head, justify="right")
    for line in measurements:
        figures = (line.rows_per_s, line.calls_per_s, line.p50_ms, line.p99_ms)
        batch = "" if not line.computed_batches else f"{(line.computed_rows or 0) / line.computed_batches:,.3g}"
        table.add_row(str(line.rows), str(line.concurrency), *(f"{figure:,.5g}" for figure in figures), batch)
    Console().print(table)

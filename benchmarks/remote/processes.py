"""Processes to measure, and the time of a call."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SERVING = Path(__file__).parents[1] / "serving"  # these benchmarks use its models


@contextmanager
def running(command: Sequence[str], **environment: str) -> Iterator[Callable[[], str]]:
    """Yield a function that reads a process's next line; the process is killed at the end."""
    settings = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings) as process:  # noqa: S603
        if process.stdout is None:
            raise RuntimeError("the process has no output to read")
        lines = process.stdout
        try:
            yield lambda: lines.readline().strip()
        finally:
            process.kill()


@contextmanager
def midrib_server(*backbones: str) -> Iterator[str]:
    """Yield the address of `midrib serve`, with its defaults."""
    command = [sys.executable, "-m", "midrib.server.cli", "serve", *backbones, "--import", "bench_models"]
    path = os.pathsep.join(filter(None, [str(SERVING), os.environ.get("PYTHONPATH")]))
    with running([*command, "--port", "0", "--json"], PYTHONPATH=path) as line:
        events = [json.loads(line()) for _ in range(2)]
        yield str(events[1]["address"])


def seconds(work: Callable[[], object], budget_s: float) -> float:
    """Return the median time of the calls that fit the budget; the first is a warm-up, unless it takes ten budgets."""
    began = time.perf_counter()
    work()
    first_s = time.perf_counter() - began
    if first_s > 10 * budget_s:
        return first_s
    times: list[float] = []
    until = time.perf_counter() + budget_s
    while not times or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)

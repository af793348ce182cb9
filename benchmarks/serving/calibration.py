"""Measure how much the choices of ten loads differ, on a machine that does other work too.

`python benchmarks/serving/calibration.py` loads a backbone ten times beside a process that uses a core in bursts. It
prints the plan of each load. Then it measures all distinct plans alternately, without the other work, and prints the
rate of the slowest in relation to the fastest.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import bench_models  # noqa: F401 - registers the backbones
import torch
from works import KEYS

from midrib.backbones import BACKBONES, keep_freed_memory
from midrib.server._calibration.plan import ComputePlan
from midrib.server._catalogue.local import load_local
from midrib.server._compute.examples import example_rows
from midrib.server._compute.forward import Forward
from midrib.server._settings import BackboneSettings, Settings

# Bursts of up to a second, as of a compiler or a browser.
_OTHER_WORK = """
import random, time
while True:
    end = time.monotonic() + random.random()
    while time.monotonic() < end: sum(range(1000))
    time.sleep(random.random())
"""
_ROWS = (1, 16, 64)
_ROUNDS = 5


def main() -> None:
    """Parse the options, load, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(KEYS), default="vit")
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="*", default=_ROWS)
    options = parser.parse_args()
    keep_freed_memory()
    with _other_work():
        plans = [_load(options.model) for _ in range(options.loads)]
    for plan, count in Counter(plans).most_common():
        _print(f"{count} of {len(plans)} loads: {plan}")
    rates = _rates(options.model, list(Counter(plans)), options.rows)
    for rows, by_plan in rates.items():
        _print(f"{rows} rows: the slowest plan has {min(by_plan) / max(by_plan):.2f} of the rate of the fastest")


@contextmanager
def _other_work() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", _OTHER_WORK]) as process:  # noqa: S603 - the program above
        try:
            yield
        finally:
            process.kill()


def _load(model: str, plan: ComputePlan | None = None) -> ComputePlan:
    return _set_up(model, plan)[1]


def _set_up(model: str, plan: ComputePlan | None) -> tuple[Forward, ComputePlan]:
    """Load a backbone as a server does. plan: used as it is; None to measure one."""
    setup = load_local(BackboneSettings(name=KEYS[model]), Settings(device="cpu"), BACKBONES).device_setups[0]
    setup.plan = plan
    forward = setup.compute()
    if setup.plan is None:
        raise RuntimeError("a load on a CPU has no plan")
    return forward, setup.plan


def _rates(model: str, plans: Sequence[ComputePlan], rows: Sequence[int]) -> dict[int, list[float]]:
    """Return the rows per second of each plan, by the rows of a batch: medians of rounds that alternate."""
    forwards = [_set_up(model, plan)[0] for plan in plans]
    rates: dict[int, list[list[float]]] = {count: [[] for _ in plans] for count in rows}
    for _, count, index in itertools.product(range(_ROUNDS), rows, range(len(plans))):
        torch.set_num_threads(plans[index].threads)
        rates[count][index].append(_rate(forwards[index], count))
    return {count: [statistics.median(each) for each in measured] for count, measured in rates.items()}


def _rate(forward: Forward, rows: int) -> float:
    batch = [(example_rows(forward.spec, rows),)]
    passes, began = 0, time.perf_counter()
    while passes < 2 or time.perf_counter() - began < 0.3:  # a warm pass at least
        forward(batch)
        passes += 1
    return passes * rows / (time.perf_counter() - began)


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    main()

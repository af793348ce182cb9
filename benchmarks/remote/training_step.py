"""Train a head over a frozen backbone, remote against local: `python benchmarks/remote/training_step.py`.

Server and client share the machine. Every step of a round has the same batch: local, remote through shared memory, and
remote over the network, with the order reversed in every second round. Writes training_step.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

import torch
from compare import EFFICIENTNET, IMAGE, TIMEOUT_S, VIT, Batch, stepper
from interleaved import Contender, interleaved_times, paired_ratio
from local import CORES, LocalPlan, fastest_plans
from processes import midrib_server

from midrib.backbones import load_backbone
from midrib.remote import RemoteBackbone, StageTimes

HERE: Final = Path(__file__).parent
SIZES: Final = (16, 64)
_BATCHES: Final = 4
_SERVED_THREADS: Final = 1  # the server has the cores then


@dataclass(frozen=True)
class Bench:
    """One backbone on a server and in this process. budget_s: for the steps of each contender."""

    name: str
    address: str
    budget_s: float

    def remote(self, *, shared: bool, cache: Path | None = None) -> RemoteBackbone:
        """Return the backbone of the server."""
        url = f"grpc://{self.address}/{self.name}"
        return RemoteBackbone(url, timeout=TIMEOUT_S, shared_memory=shared, cache=cache)


def batches(rows: int) -> list[Batch]:
    """Return batches of random images, with labels."""
    return [[torch.randn(rows, *IMAGE), torch.arange(rows) % 4] for _ in range(_BATCHES)]


def steps(bench: Bench, plan: LocalPlan, rows: int) -> Iterator[str]:
    """Yield the line of a backbone and a batch, then where the time of the steps through shared memory went."""
    module, shared = load_backbone(bench.name).module, bench.remote(shared=True)
    width = shared.num_features
    contenders = {
        "local": Contender(plan.threads, stepper(plan.bind(module), width)),
        "shared": Contender(_SERVED_THREADS, stepper(shared, width)),
        "network": Contender(_SERVED_THREADS, stepper(bench.remote(shared=False), width)),
    }
    before = shared.stall
    times = interleaved_times(contenders, cycle(batches(rows)), budget_s=bench.budget_s, least=4)
    local_ms, shared_ms, network_ms = (1e3 * statistics.median(spent) for spent in times.values())
    ratios = [f"{paired_ratio(times[route], times['local']):.3f}" for route in ("shared", "network")]
    figures = [f"{local_ms:.1f} ({plan})", f"{shared_ms:.1f}", f"{network_ms:.1f}", *ratios]
    profile = _profile(shared.stall - before, 1e3 * sum(times["shared"]) / len(times["shared"]))
    yield f"| {bench.name} | {rows} | {len(times['local'])} | {' | '.join([*figures, *profile])} |"


def _profile(stages: StageTimes, step_ms: float) -> list[str]:
    """Return the mean ms of an item in each stage. Items overlap; an item is a part of a batch."""
    names = ("waiting_s", "encode_s", "wire_s", "queue_s", "compute_s")
    means = [f"{1e3 * getattr(stages, name) / max(1, stages.items):.1f}" for name in names]
    return [f"{step_ms:.1f}", f"{stages.rows / max(1, stages.items):.0f}", *means]


def cached_epochs(bench: Bench, rows: int) -> str:
    """Return the line of two epochs with a cache: the first one fills it."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = bench.remote(shared=True, cache=Path(folder) / "features.db")
        step, data = stepper(backbone, backbone.num_features), batches(rows)
        torch.set_num_threads(_SERVED_THREADS)
        first_s, *later_s = (_epoch_s(step, data) for _ in range(6))
    second_s = statistics.median(later_s)
    return f"| {bench.name} | {rows} | {first_s:.2f} | {second_s:.3f} | {first_s / second_s:.0f} |"


def _epoch_s(step: Callable[[Batch], None], data: Sequence[Batch]) -> float:
    began = time.perf_counter()
    for batch in data:
        step(batch)
    return time.perf_counter() - began


def tables(address: str, budget_s: float) -> Iterator[str]:
    """Yield the lines of both tables."""
    stages = "mean step ms | rows an item | waiting | encode | wire | queue | compute"
    yield f"| backbone | rows | pairs | local ms | shared ms | network ms | shared/local | network/local | {stages} |"
    yield "|" + "---|" * 15
    benches = [Bench(name, address, budget_s) for name in (EFFICIENTNET, VIT)]
    for bench in benches:
        module = load_backbone(bench.name).module
        plan = fastest_plans(module, torch.randn(SIZES[0], *IMAGE), budget_s / 4)[0]
        for rows in SIZES:
            yield from steps(bench, plan, rows)
    yield "\nWith a cache, an epoch of four batches:\n"
    yield "| backbone | rows | first epoch s | later epochs s | first/later |"
    yield "|---|---|---|---|---|"
    for bench in benches:
        yield from (cached_epochs(bench, rows) for rows in SIZES)


def head(load: float) -> list[str]:
    """Return the lines that say how it was measured. load: of the machine before."""
    return [
        "# The training step over a frozen backbone, remote against local\n",
        f"{CORES} cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}.",
        "Server (`midrib serve`, its defaults) and client share the cores. Local runs by the fastest of six plans of",
        "threads and rows at a time. The steps of a round are measured one after the other on one batch; a ratio is",
        "the median of the ratios within rounds. The last columns are the stages of the steps through shared memory:",
        "mean ms of an item, which is a part of a batch. Items overlap, so their sum exceeds a step.",
        f"Load of the machine before it (1 minute): {load:.1f}.",
        "Command: `python benchmarks/remote/training_step.py`.\n",
    ]


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--budget-s",
        type=float,
        default=12.0,
        help="seconds for the steps of each contender; 12 take about five minutes",
    )
    parser.add_argument("--out", type=Path, default=HERE / "training_step.md")
    options = parser.parse_args()
    lines = head(os.getloadavg()[0])
    with midrib_server(VIT, EFFICIENTNET) as address:
        for line in tables(address, options.budget_s):
            lines.append(line)
            print(line, flush=True)  # noqa: T201 - it takes minutes
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

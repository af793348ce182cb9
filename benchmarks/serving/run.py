"""Compare Midrib's server with its rivals and limits: `python benchmarks/serving/run.py`.

In a fresh clone, run `build-support/dev` first, and use `.venv/bin/python`. The first run makes a virtual environment
for each rival in a cache folder. Every run writes results.json, results.md and results.png.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import uvloop
from arena import Arena
from contenders import CONTENDERS, OURS
from limits import measure_memory, measure_start
from processes import load_average
from report import write
from results import Plan, Results
from rounds import Rounds
from venvs import RIVALS, InstallError, default_cache, installed_version, prepare
from works import WORKS

logger = logging.getLogger("benchmark")

_HERE = Path(__file__).parent
_EXTRA_WORKS = ("start", "memory")
_RIVALS = tuple(contender.name for contender in CONTENDERS if contender.kind == "rival")
_BUSY = 1.0
# The works, the rounds and the seconds per measurement of --short.
_SHORT = (("W1", "W2", "W3"), 3, 0.4)


def main() -> None:
    """Parse the command line, prepare, measure, write."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logger.setLevel(logging.INFO)
    options = _parser().parse_args()
    if options.short:
        options.work, options.rounds, options.seconds = _SHORT
    os.environ["MIDRIB_DEVICE"] = options.device  # for every server
    results = Results()
    with tempfile.TemporaryDirectory(prefix="midrib-bench-") as logs:
        plan = Plan(options.rounds, options.seconds, _pythons(options, results), Path(options.logs or logs))
        plan.logs.mkdir(parents=True, exist_ok=True)
        results.conditions = _conditions(plan, options.rivals)
        if load_average() > _BUSY:
            logger.warning("the machine is busy (load average %.1f): figures will be low, ratios noisy", load_average())
        uvloop.run(_measure(plan, options.work, results))
    results.conditions |= _loads(results)
    options.out.mkdir(parents=True, exist_ok=True)
    write(results, options.out)
    logger.info("written: %s", options.out / "results.md")


async def _measure(plan: Plan, names: Sequence[str], results: Results) -> None:
    works = [work for work in WORKS if work.name in names]
    for models, group in itertools.groupby(works, key=lambda work: work.models):
        arena = Arena(plan, models, results)
        try:
            await arena.start()
            for work in group:
                await Rounds(arena, plan, results).run(work)
        finally:
            await asyncio.to_thread(arena.stop)
    if "memory" in names:
        await measure_memory(plan, results)
    if "start" in names:
        await measure_start(plan, results)


def _pythons(options: argparse.Namespace, results: Results) -> dict[str, Path]:
    """Return the Python of each server; the environments of rivals are installed first."""
    python = Path(sys.executable)
    pythons = {**dict.fromkeys(OURS, python), "echo": python}
    if "naive" in options.rivals:
        pythons["naive"] = python
    for rival in RIVALS:
        if rival.name not in options.rivals:
            continue
        logger.info("%s: %s", rival.name, rival.requirements[0])
        try:
            pythons[rival.name] = prepare(rival, options.cache)
        except InstallError as error:
            results.failures[f"{rival.name}: install"] = str(error)
            logger.warning("%s cannot be installed: %s", rival.name, error)
    return pythons


def _conditions(plan: Plan, rivals: Sequence[str]) -> dict[str, object]:
    packages = ("torch", "grpcio", "protobuf", "uvloop", "numpy")
    return {
        "machine": f"{os.cpu_count()} cores, {_cpu_model()}, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "rivals": ", ".join(
            f"{rival.package} {installed_version(plan.pythons[rival.name], rival.package)}"
            for rival in RIVALS
            if rival.name in rivals and rival.name in plan.pythons
        ),
        "rounds": plan.rounds,
        "seconds per measurement": f"{plan.seconds:g}; times {', '.join(f'{w.name} {w.duration:g}' for w in WORKS)}",
        "threads": "midrib: measured at load; all others: 1 for the MLP, all cores for ViT and MiniLM",
        "device": os.environ["MIDRIB_DEVICE"],
        "load average before": f"{load_average():.2f}",
    }


def _loads(results: Results) -> dict[str, object]:
    loads = results.loads or [load_average()]
    return {"load average during": f"{min(loads):.2f} to {max(loads):.2f}"}


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every_work = (*(work.name for work in WORKS), *_EXTRA_WORKS)
    parser.add_argument("--work", type=_names(every_work), default=every_work, help=f"of {','.join(every_work)}")
    parser.add_argument("--rivals", type=_names(_RIVALS), default=_RIVALS, help=f"of {','.join(_RIVALS)}; '' is none")
    parser.add_argument("--short", action="store_true", help="W1 to W3 only, in about six minutes on two cores")
    parser.add_argument("--device", default="cpu", help="the device of all servers: cpu, cuda, cuda:1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=0.7, help="seconds per measurement; slow workloads take longer"
    )
    parser.add_argument("--cache", type=Path, default=default_cache(), help="the folder of the rivals' environments")
    parser.add_argument("--out", type=Path, default=_HERE, help="the folder of the results")
    parser.add_argument("--logs", type=Path, help="a folder that keeps the servers' output")
    return parser


def _names(choices: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(filter(None, text.split(",")))
        if unknown := set(names) - set(choices):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected one of {', '.join(choices)}")
        return names

    return parse


if __name__ == "__main__":
    main()

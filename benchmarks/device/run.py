"""What serving takes of a device: `python benchmarks/device/run.py --device cuda` writes a table.

The same batches of 1 to 1024 rows, by turns: in a loop in process that is written for speed (on a GPU: pinned memory,
and three streams, so that copies and computation overlap), through the engine without a wire, and over gRPC.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from models import NAMES, batches
from routes import Loop, Route, engine, served

from midrib.server import Settings
from midrib.wire import Array

_HERE = Path(__file__).parent
_TARGET: Final = 0.95
_LEAST: Final = 8
# Different batches of a turn: small ones that are equal would be asked once.
_MOST_BATCHES, _BATCHES_BYTES = 128, 256 << 20
# Largest difference from the loop's features, relative to the largest of them.
_PARITY: Final = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 2e-2}


def main() -> None:
    """Measure, and write results.md."""
    options = _parser().parse_args()
    lines = ["# What serving takes of a device\n", *_conditions(options)]
    for model in options.models:
        for dtype in options.dtypes:
            lines += [f"\n## {NAMES[model]}, {dtype}\n", *_table(model, dtype, options)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.md").write_text("\n".join(lines) + "\n")


def _table(model: str, dtype: str, options: argparse.Namespace) -> Iterator[str]:
    yield "| rows | loop, rows/s | engine, rows/s | engine / loop | served, rows/s | served / loop |"
    yield "|---|---|---|---|---|---|"
    (row,), defaults = batches(model, 1, 1), Settings()
    settings = {
        "device": options.device,
        "dtype": dtype,
        "max_batch_elements": max(defaults.max_batch_elements, max(options.rows) * row.size),
        "max_in_flight_bytes": max(defaults.max_in_flight_bytes, 8 * max(options.rows) * row.nbytes),
    }
    with ExitStack() as stack:
        routes: dict[str, Route] = {
            "loop": Loop(model, options.device, dtype),
            "engine": stack.enter_context(engine(model, settings)),
            "served": stack.enter_context(served(model, settings)),
        }
        for rows in options.rows:
            yield _row(rows, _rates(routes, _some(model, rows), dtype, options))
            print(model, dtype, rows, flush=True)  # noqa: T201 - how far it is


def _row(rows: int, rates: dict[str, list[float]]) -> str:
    loop, *others = rates.values()
    cells = [f"{rows}", f"{statistics.median(loop):,.0f}"]
    for other in others:
        ratio = statistics.median(one / limit for one, limit in zip(other, loop, strict=True))
        cells += [f"{statistics.median(other):,.0f}", f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} |"


def _rates(
    routes: dict[str, Route], given: list[Array], dtype: str, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Rows a second of each route, a figure a round. Raises ValueError where their features differ."""
    firsts = {name: np.float32(next(iter(one.results(given[:1])))) for name, one in routes.items()}
    bound = _PARITY[dtype] * float(np.abs(firsts["loop"]).max())
    for name, features in firsts.items():
        if not (difference := float(np.abs(features - firsts["loop"]).max())) <= bound:
            raise ValueError(
                f"{name}: features differ by {difference:.2g} from the loop's, at most {bound:.2g} is taken"
            )
    rates: dict[str, list[float]] = {name: [] for name in routes}
    order = list(routes)
    for _ in range(options.rounds):
        for name in order:
            rates[name].append(_rate(routes[name].results, given, options.seconds))
        order.reverse()  # nobody always follows the same one
    return rates


def _rate(results: Callable[[Iterable[Array]], Iterator[Array]], given: list[Array], seconds: float) -> float:
    """Rows a second, from the first batch asked to the last answered: over so many seconds, and `_LEAST` batches."""
    began = time.perf_counter()

    def endless() -> Iterator[Array]:
        asked = 0
        while asked < _LEAST or time.perf_counter() < began + seconds:
            yield given[asked % len(given)]
            asked += 1

    answered = sum(len(features) for features in results(endless()))
    return answered / (time.perf_counter() - began)


def _some(model: str, rows: int) -> list[Array]:
    (row,) = batches(model, 1, 1)
    return batches(model, rows, max(2, min(_MOST_BATCHES, _BATCHES_BYTES // (rows * row.nbytes))))


def _conditions(options: argparse.Namespace) -> Iterator[str]:
    on_gpu = options.device.startswith("cuda")
    name = torch.cuda.get_device_name(options.device) if on_gpu else f"{os.cpu_count()} cores ({platform.machine()})"
    yield f"{name}, Python {platform.python_version()}, torch {torch.__version__}, grpcio {version('grpcio')}."
    yield f"Medians of {options.rounds} rounds of {options.seconds:g} s each, by turns; ratios are those of the rounds."
    yield "loop: the module in process, written for speed. engine: batcher and replica without a wire."
    yield "served: `midrib serve` and `Client.embed_stream` over loopback."
    yield f"Asked of the engine on a GPU: {_TARGET} of the loop."
    yield f"Load of the machine before it (1 minute): {os.getloadavg()[0]:.1f}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--models", type=_list(str), default=["mlp", "vit-tiny", "vit-base"], help=f"of {','.join(NAMES)}"
    )
    parser.add_argument("--dtypes", type=_list(str), default=["float32", "bfloat16"])
    parser.add_argument("--rows", type=_list(int), default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement")
    parser.add_argument("--out", type=Path, default=_HERE, help="where results.md goes")
    return parser


def _list(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()

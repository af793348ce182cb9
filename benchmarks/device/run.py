"""How much of a device serving uses: `python benchmarks/device/run.py --device cuda` writes a table.

The same batches of 1 to 1024 rows are computed in rotation: in a hand-written loop (on a GPU with pinned memory and
three streams, so that copies and computation overlap), by the engine without gRPC, and over gRPC.
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
# Limits on the different batches of a measurement.
_MOST_BATCHES, _BATCHES_BYTES = 128, 256 << 20
# Largest difference from the loop's features, relative to the largest of them.
_PARITY: Final = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 2e-2}


def main() -> None:
    """Measure, and write results.md."""
    options = _parser().parse_args()
    lines = ["# How much of a device serving uses\n", *_conditions(options)]
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
            print(model, dtype, rows, flush=True)  # noqa: T201 - the progress


def _row(rows: int, rates: dict[str, list[float]]) -> str:
    loop, *routes = rates.values()
    cells = [f"{rows}", f"{statistics.median(loop):,.0f}"]
    for route in routes:
        ratio = statistics.median(rate / limit for rate, limit in zip(route, loop, strict=True))
        cells += [f"{statistics.median(route):,.0f}", f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} |"


def _rates(
    routes: dict[str, Route], inputs: list[Array], dtype: str, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Return the rows per second of each route in each round. Raises ValueError if their features differ."""
    firsts = {name: np.float32(next(iter(route.results(inputs[:1])))) for name, route in routes.items()}
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
            rates[name].append(_rate(routes[name].results, inputs, options.seconds))
        order.reverse()  # so that no route always follows the same one
    return rates


def _rate(results: Callable[[Iterable[Array]], Iterator[Array]], inputs: list[Array], seconds: float) -> float:
    """Return the rows per second of a measurement of at least `seconds` and `_LEAST` batches."""
    began = time.perf_counter()

    def endless() -> Iterator[Array]:
        sent = 0
        while sent < _LEAST or time.perf_counter() < began + seconds:
            yield inputs[sent % len(inputs)]
            sent += 1

    answered = sum(len(features) for features in results(endless()))
    return answered / (time.perf_counter() - began)


def _some(model: str, rows: int) -> list[Array]:
    (row,) = batches(model, 1, 1)
    return batches(model, rows, max(2, min(_MOST_BATCHES, _BATCHES_BYTES // (rows * row.nbytes))))


def _conditions(options: argparse.Namespace) -> Iterator[str]:
    on_gpu = options.device.startswith("cuda")
    name = torch.cuda.get_device_name(options.device) if on_gpu else f"{os.cpu_count()} cores ({platform.machine()})"
    yield f"{name}, Python {platform.python_version()}, torch {torch.__version__}, grpcio {version('grpcio')}."
    yield f"Medians of {options.rounds} rounds of {options.seconds:g} s each, in rotation; ratios are per round."
    yield "loop: a hand-written loop in process. engine: batcher and replica without gRPC."
    yield "served: `midrib serve` and `Client.embed_stream` over loopback."
    yield f"The target of the engine on a GPU is {_TARGET} of the loop."
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

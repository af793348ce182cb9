"""Compare `workers = "process"` with `workers = "thread"`: rates, latency, processor time, memory and starts.

`python benchmarks/serving/workers.py` takes about nine minutes. It prints a table of W1, W2, W3 and W5, by plain stubs
and by our client: medians over the rounds, the ratios of processes by threads, the processor time of a call of the
server's process and of its workers apart, and the bound on the calls per second that follows for 8 and 16 cores. Then
it prints the memory of a second CPU replica by that of the first, and the time that processes add to a first load.
"""

from __future__ import annotations

import argparse

import uvloop
from loading import measure_starts
from replica_memory import second_replica_share
from worker_rates import COMPARED, compare

_PARTS = (*(work.name for work in COMPARED), "memory", "start")


def main() -> None:
    """Parse the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8, help="of a measurement; those of slow models take longer")
    options = parser.parse_args()
    works = [work for work in COMPARED if work.name in options.parts]
    if works:
        uvloop.run(compare(works, rounds=options.rounds, seconds=options.seconds, show=_print))
    if "memory" in options.parts:
        _print(f"\nmemory of a second CPU replica by that of the first: {100 * second_replica_share():.0f} %")
    if "start" in options.parts:
        _print("")
        measure_starts("mlp", options.rounds, show=_print)


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    main()

"""Load and unload a backbone in a worker process many times; print the server's memory, threads and descriptors.

`python benchmarks/soak/load_cycles.py --cycles 1000` takes a fifth of a second for each cycle.
"""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path
from typing import Any

from midrib.remote import Client
from midrib.server.testing import serving

NAME = "template/classification/mlp-128-256"
_MEBI = 2**20


def main() -> None:
    """Parse the options and run the cycles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50, help="Cycles between two lines.")
    options = parser.parse_args()
    settings: dict[str, Any] = {"workers": "process", "admin": True, "warm_up_s": 0.0}
    with serving(**settings) as running, Client(running.address, timeout=120) as client:
        for cycle in range(1, options.cycles + 1):
            client.load(NAME, num_features=4)
            client.unload(NAME)
            if cycle % options.every == 0 or cycle == 1:
                _print(cycle)


def _print(cycle: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGESIZE") / _MEBI
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    line = f"cycle {cycle}: {memory:.1f} MiB, {threads} threads, {descriptors} descriptors"
    print(line, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    main()

"""A driver that is killed after its second file. Arguments: Ray's address, the table, the folder, the backbone."""

from __future__ import annotations

import os
import signal
import sys

import ray

import midrib.ray


def main() -> None:
    """Begin the job."""
    address, table, folder, backbone = sys.argv[1:]
    ray.init(address=address, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    parts = 0

    def count(_: midrib.ray.Written) -> None:
        nonlocal parts
        parts += 1
        if parts == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    dataset = ray.data.read_parquet(table)
    midrib.ray.write_embeddings(dataset, backbone, folder, "text", part_rows=8, on_progress=count)


if __name__ == "__main__":
    main()

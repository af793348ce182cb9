"""A program with a Ray of two logical GPUs, on which each backbone is a deployment.

The arguments are a settings file, a file of each backbone's options, and Ray's HTTP port. It prints the address for
clients, and the bundles of each placement group. At each line of its input it serves the changed files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ray.util import placement_group_table

from midrib.ray.serve import ServeOptions, read_backbone_options, up
from midrib.server import load_settings

# Another HTTP port than that of a Ray which happens to run on this machine.
OPTIONS = ServeOptions(
    num_cpus=0.1, http_port=int(sys.argv[3]), drain_s=1.0, upscale_delay_s=1.0, downscale_delay_s=3.0
)


def main() -> None:
    """Serve, and serve again at each line."""
    serve(num_cpus=2, num_gpus=2, object_store_memory=80 * 2**20, include_dashboard=False)
    for _ in sys.stdin:
        serve()


def serve(**ray_options: Any) -> None:
    """Serve the files as they are now, and print the event."""
    settings, tables = map(Path, sys.argv[1:3])
    address = up(
        load_settings(settings, insecure=True),
        OPTIONS,
        backbone_options=read_backbone_options(tables, OPTIONS),
        **ray_options,
    )
    groups = [group["bundles"] for group in placement_group_table().values() if group["state"] == "CREATED"]
    sys.stdout.write(json.dumps({"event": "ready", "address": address, "groups": groups}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

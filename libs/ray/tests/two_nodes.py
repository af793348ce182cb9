"""A program with a Ray cluster of two nodes, and four replicas of a server on them.

The argument is a settings file. It prints the address for clients and the node of each replica. At the first line of
its input it ends the second node, at the next one itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ray.cluster_utils import Cluster

from midrib.ray.serve import ServeOptions, up
from midrib.server import load_settings

SHARE = {"CPU": 0.2, "GPU": 0.5}


def main() -> None:
    """Start the nodes, each with one logical GPU, and serve."""
    node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    options = ServeOptions(
        min_replicas=4, max_replicas=4, num_cpus=SHARE["CPU"], num_gpus=SHARE["GPU"], placement_group_bundles=(SHARE,)
    )
    address = up(load_settings(Path(sys.argv[1]), insecure=True), options, address=cluster.address)
    say({"event": "ready", "address": address, "nodes": replica_nodes()})
    sys.stdin.readline()
    cluster.remove_node(second, allow_graceful=False)
    say({"event": "removed"})
    sys.stdin.readline()


def say(event: dict[str, object]) -> None:
    """Print an event."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def replica_nodes() -> list[str]:
    """Return the id of each replica's node, by its placement group."""
    from ray.util import placement_group_table

    groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    return [node for group in groups for node in group["bundles_to_node_id"].values()]


if __name__ == "__main__":
    main()

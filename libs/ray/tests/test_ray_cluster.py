"""Ray Serve on two nodes: shares of their GPUs, placement groups, and the loss of a node under load."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.ray.tests.ray_program import RayProgram
from libs.ray.tests.serve_load import Load
from libs.ray.tests.serve_process import RAY_PORTS, free_ports, ray_environment, write_settings

pytest.importorskip("ray.serve", reason="needs Ray Serve: build-support/ray makes an environment with it")

ITEMS = 10_000


@pytest.fixture()
def nodes(tmp_path: Path) -> Iterator[RayProgram]:
    """Two nodes with one logical GPU each, and four replicas that each reserve half a GPU."""
    port, second_http_port, second_port, *ports = free_ports(3 + len(RAY_PORTS))
    settings = write_settings(tmp_path, {"seconds": 0.02}, port=port, max_stream_age_s=1.0, max_batch_rows=16)
    # Both nodes are on one machine, so the ingress of the second needs other ports.
    second = {
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(second_http_port),
        "RAY_SERVE_WORKER_PROXY_GRPC_PORT": str(second_port),
    }
    command = [sys.executable, str(Path(__file__).with_name("two_nodes.py")), str(settings)]
    program = RayProgram(command, tmp_path / "log", {**ray_environment(ports), **second})
    try:
        yield program
    finally:
        program.stop()


def test_a_lost_node_costs_no_answer(nodes: RayProgram) -> None:
    """Two replicas share each GPU, in placement groups. The items of a lost node are computed by the other one."""
    ready = nodes.event("ready")
    assert sorted(Counter(ready["nodes"]).values()) == [2, 2]
    load = Load(ready["address"])
    nodes.enter()
    nodes.event("removed")
    load.wait_for(ITEMS)
    assert load.stop() >= ITEMS

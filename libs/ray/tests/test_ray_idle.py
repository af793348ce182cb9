"""Ray Serve without a replica while nothing calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from libs.ray.tests.serve_load import NAME, Load
from libs.ray.tests.serve_process import ServeProcess
from midrib.remote import Client

pytest.importorskip("ray.serve", reason="needs Ray Serve: build-support/ray makes an environment with it")


@pytest.fixture()
def idle(tmp_path: Path) -> Iterator[ServeProcess]:
    """At most two replicas, of which the last one has left after a few seconds without a call."""
    options = ["--min-replicas", "0", "--max-replicas", "2", "--cpus", "0.2", "--drain-s", "2"]
    options += ["--upscale-delay-s", "1", "--downscale-delay-s", "3"]
    process = ServeProcess(tmp_path, {"seconds": 0.02}, options, max_stream_age_s=1.0, max_batch_rows=16)
    try:
        process.wait_until_ready()
        process.until(lambda replicas: not replicas)
        yield process
    finally:
        process.stop()


def test_a_call_brings_the_first_replica_and_a_load_more(idle: ServeProcess) -> None:
    """The call waits until it has started. After the load all replicas leave again."""
    with Client(idle.address, timeout=120) as client:
        assert client.embed(NAME, np.ones((1, 2), np.float32)).tolist() == [[2.0, 2.0]]
    load = Load(idle.address)
    idle.until(lambda replicas: len(replicas) == 2)
    assert load.stop() > 0
    idle.until(lambda replicas: not replicas)

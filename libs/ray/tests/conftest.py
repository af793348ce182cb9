"""A Ray of two CPUs for the tests."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:  # noqa: PT004 (used by its name: it starts Ray)
    """A Ray of two CPUs, whose workers import the modules that this process can import."""
    import ray

    folders = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    with tempfile.TemporaryDirectory(prefix="midrib-ray-", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",  # not a cluster that happens to run on this machine
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()
    del os.environ["PYTHONPATH"]

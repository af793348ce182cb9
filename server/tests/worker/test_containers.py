"""Workers in the surroundings of a container: no rights, a read-only root and a small /dev/shm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from midrib.remote import Client

MLP = "template/classification/mlp-128-256"
# As `docker run --read-only`: nothing can be written but 64 MiB of /dev/shm.
_READ_ONLY = (
    "mount --make-rprivate / && mount -o bind / / && mount -o remount,bind,ro / && "
    "mount -o bind /tmp /tmp && mount -o remount,bind,ro /tmp && "
    'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"'
)
SURROUNDINGS = {
    "user-without-rights": ["unshare", "--user"],
    "read-only-root": ["unshare", "--mount", "sh", "-c", _READ_ONLY, "sh"],
}


@pytest.fixture(params=list(SURROUNDINGS))
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of `midrib serve` in such surroundings."""
    surroundings = SURROUNDINGS[request.param]
    if shutil.which("unshare") is None or subprocess.run([*surroundings, "true"], check=False).returncode:
        pytest.skip(f"this machine allows no {request.param}, which needs Linux's unshare")
    serve = [sys.executable, "-m", "midrib.server.cli", "serve", f"{MLP}?num_features=4", "--port", "0", "--json"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MIDRIB_WARM_UP_S": "0",
        "MIDRIB_THREADS": "1",
    }
    with subprocess.Popen(
        [*surroundings, *serve], stdout=subprocess.PIPE, text=True, env=environment, cwd="/"
    ) as process:
        lines = iter(process.stdout or ())
        served = json.loads(next(lines))["address"]
        assert json.loads(next(lines))["event"] == "ready"
        yield served
        process.send_signal(signal.SIGTERM)


def test_workers_need_neither_rights_nor_files(address: str) -> None:
    """Their memory is anonymous: a batch larger than /dev/shm gets its rows."""
    rows = np.zeros((80_000, 4), np.float32)
    with Client(address, timeout=60) as client:
        assert np.asarray(client.embed(MLP, rows)).shape == (80_000, 256)

"""`midrib embed --ray`: the same command, whose items actors of a real cluster embed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="needs Ray: build-support/ray makes an environment with it")

PROGRAM = "import sys; from midrib.remote.cli import main; sys.exit(main())"
ROWS = 300


def embed(inputs: Path, out: Path, marker: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command in another process."""
    backbone = f"test/embedding/dying?marker={marker}"
    command = ["embed", str(inputs), "--backbone", backbone, "--import", "dying_backbone", "--out", str(out), "--json"]
    program = [sys.executable, "-c", PROGRAM, *command, *options]
    return subprocess.run(program, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.usefixtures("cluster")
def test_the_output_is_that_of_the_command_without_ray(tmp_path: Path) -> None:
    """Also if the process of an actor is killed: the same features, ids and revision."""
    np.save(tmp_path / "rows.npy", np.repeat(np.arange(ROWS, dtype=np.float32)[:, None], 2, axis=1))
    marker, address = tmp_path / "killed", ray.get_runtime_context().gcs_address
    cluster = embed(tmp_path / "rows.npy", tmp_path / "cluster.npy", marker, "--ray", address)
    assert cluster.returncode == 0, cluster.stderr
    assert marker.exists()
    process = embed(tmp_path / "rows.npy", tmp_path / "process.npy", marker)
    assert process.returncode == 0, process.stderr
    assert json.loads(cluster.stdout) == {"out": str(tmp_path / "cluster.npy"), "rows": ROWS, "bad": 0, "resumed": 0}
    assert (tmp_path / "cluster.npy").read_bytes() == (tmp_path / "process.npy").read_bytes()
    assert (tmp_path / "cluster.npy.json").read_bytes() == (tmp_path / "process.npy.json").read_bytes()


@pytest.mark.usefixtures("cluster")
def test_a_backbone_that_does_not_load_ends_the_command(tmp_path: Path) -> None:
    """With the error that it has without Ray."""
    np.save(tmp_path / "rows.npy", np.ones((3, 2), np.float32))
    address = ray.get_runtime_context().gcs_address
    out = str(tmp_path / "out.npy")
    command = ["embed", str(tmp_path / "rows.npy"), "--backbone", "test/embedding/dyin", "--out", out, "--ray", address]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert "test/embedding/dyin" in done.stderr

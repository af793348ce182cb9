"""`embed_files` in a process that is killed repeatedly: no row is lost or doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from midrib.remote import Client, embed_files
from midrib.remote.testing import serving

NAME = "template/classification/mlp-128"
CHUNK = 64
ROWS = 10 * CHUNK - 7
# After each chunk it prints a line, and waits for permission to continue.
RUN = f"""
import sys
from midrib.remote import embed_files

def show(progress):
    print(progress.done, flush=True)
    sys.stdin.readline()

embed_files(sys.argv[1], [sys.argv[2]], sys.argv[3], chunk_items={CHUNK}, on_progress=show)
"""


def run_and_kill(url: str, inputs: Path, out: Path, *, after: int) -> list[int]:
    """Its output until it was killed, after some chunks."""
    command = [sys.executable, "-c", RUN, url, str(inputs), str(out)]
    said = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(after):
            said.append(int(process.stdout.readline()))
            if number < after - 1:
                process.stdin.write("\n")
                process.stdin.flush()
        process.kill()
    return said


def test_a_run_that_is_killed_twice_ends_complete(tmp_path: Path) -> None:
    """SIGKILL after three chunks, and after two more; the third run does only the rest."""
    inputs, out = tmp_path / "rows.npy", tmp_path / "out.npy"
    np.save(inputs, np.random.default_rng(0).standard_normal((ROWS, 8), np.float32))
    with serving({"name": NAME, "arguments": {"num_features": 8}}) as server:
        url = server.url(NAME)
        assert run_and_kill(url, inputs, out, after=3) == [CHUNK, 2 * CHUNK, 3 * CHUNK]
        assert run_and_kill(url, inputs, out, after=2) == [4 * CHUNK, 5 * CHUNK]
        assert not out.exists()
        progress = embed_files(url, [inputs], out, chunk_items=CHUNK)
        want = Client(server.address).embed(NAME, np.load(inputs))
    assert (progress.done, progress.resumed, progress.bad) == (ROWS, 5 * CHUNK, 0)
    np.testing.assert_allclose(np.load(out), want, atol=1e-5)
    ids = json.loads((tmp_path / "out.npy.json").read_text())["ids"]
    assert ids == [f"{inputs.as_posix()}:{row}" for row in range(ROWS)]

"""A server that is killed with SIGKILL: its workers end within two seconds, with all that their modules have left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

SCRIPT = textwrap.dedent("""
    import os, sys
    import numpy as np
    from hostile import REGISTRY
    from midrib.remote import Client
    from midrib.server.testing import serving
    daemon = {"name": "daemon", "arguments": {"file": sys.argv[1]}}
    with serving(daemon, registry=REGISTRY, workers="process", warm_up_s=0.0) as running:
        with Client(running.address, timeout=60) as client:
            client.embed("daemon", np.full((1, 2), 666, np.float32))
        states = running.server.catalogue.entry("daemon").ready().worker_states()
        print(states[0].pid, flush=True)
        os.kill(os.getpid(), 9)
    """)


def runs(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_worker_and_no_daemon_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    """The daemon is in another session, and its parent has ended: only its file has its number."""
    file = tmp_path / "pid"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    left = {int(ended.stdout), int(file.read_text())}
    waited = threading.Event()
    for _ in range(40):
        left = {pid for pid in left if runs(pid)}
        if not left:
            break
        waited.wait(0.05)
    assert left == set()

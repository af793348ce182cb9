"""A worker of a server that was started in a terminal is not stopped by it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Python's getpass opens the terminal. If there is none, it reads stdin, which ends at once for a worker.
_LOAD = """
import fcntl, sys, termios
from midrib.server._worker.launch import launcher
from midrib.server._worker.process import WorkerProcess, WorkerSpec
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
launcher.CAN_FORK = sys.argv[1] == "forked"
try:
    WorkerProcess(WorkerSpec("test", "getpass:getpass", {}, max_load_s=20.0), []).call("Password: ")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("start", ["spawned", "forked"])
def test_a_loader_that_asks_for_a_password_fails_at_once(start: str) -> None:
    """It would get no answer: the system would stop it until the time limit of a load."""
    keyboard, terminal = os.openpty()
    try:
        process = subprocess.run(
            [sys.executable, "-c", _LOAD, start],
            stdin=terminal,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            start_new_session=True,
        )
    finally:
        os.close(terminal)
        os.close(keyboard)
    assert process.stdout == "EOFError\n"

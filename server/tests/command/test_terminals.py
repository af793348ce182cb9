"""`midrib` without a terminal, with closed streams, and without colours."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "midrib.remote.cli"]
DOCTOR = [*COMMAND, "doctor", "grpc://127.0.0.1:9/a/b"]


@pytest.mark.parametrize(
    ("environment", "colours"),
    [pytest.param({"NO_COLOR": "1"}, False, id="NO_COLOR"), pytest.param({"NO_COLOR": ""}, True, id="default")],
)
def test_colours_may_be_turned_off(environment: dict[str, str], colours: bool) -> None:
    """The usual variable switches them off; an empty one has no effect."""
    controller, terminal = pty.openpty()
    subprocess.run(DOCTOR, stdout=terminal, env={**os.environ, **environment}, timeout=60, check=False)
    os.close(terminal)
    output = os.read(controller, 1 << 16)
    os.close(controller)
    assert b"Connection refused" in output
    assert (b"\x1b[31m" in output) is colours


@pytest.mark.parametrize("stream", [pytest.param(">&-", id="stdout"), pytest.param("2>&-", id="stderr")])
def test_a_closed_stream_is_not_an_error(stream: str) -> None:
    """Cron and some supervisors start programs so."""
    command = ["sh", "-c", f'exec "$@" {stream}', "sh", *COMMAND, "list", "efficientnet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    errors = done.stderr.removeprefix("reading the registry ...\n")  # said on a busy machine
    assert (done.returncode, errors) == (0, "")


def test_a_checkout_has_no_version() -> None:
    """The version is that of the installed wheel."""
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("midrib ")
    assert "None" not in done.stdout

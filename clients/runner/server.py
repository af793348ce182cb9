"""A real server process that serves the golden backbones."""

# ruff: noqa: S603 - it runs our own programs

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BACKBONES = ("tensor", "image", "text", "audio")


@contextmanager
def golden_server() -> Iterator[dict[str, Any]]:
    """Yield the "ready" event of a server: its `address`, and its `backbones` with their revisions.

    Raises RuntimeError if the server ends before it is ready.
    """
    names = [f"golden/embedding/{name}" for name in BACKBONES]
    command = [sys.executable, "-m", "midrib.server.cli", "serve", *names, "--import", "clients.golden.backbones"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--device", "cpu", "--threads", "1", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield _ready(process)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def environment() -> dict[str, str]:
    """Return the environment of a Python process that can import the same modules as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}


def _ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    for line in process.stdout or ():
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "ready":
            return event
    raise RuntimeError(f"the server ended with status {process.wait()} before it was ready")

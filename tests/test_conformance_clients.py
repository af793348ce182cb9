"""The clients that `clients/conformance` has built, in every language, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("python", "generic", "typescript", "go", "cpp", "java")


@pytest.fixture(scope="module")
def report() -> dict[str, str]:
    """The output of `clients/conformance --built` for each client: its line, and its failures below it."""
    done = subprocess.run(
        [sys.executable, "-m", "clients.runner", "--built"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in [str(ROOT), *sys.path] if path)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    lines: dict[str, str] = {}
    name = ""
    for line in done.stdout.splitlines():
        name = name if line.startswith(" ") else line.split()[0]
        lines[name] = lines.get(name, "") + line + "\n"
    if not lines:
        pytest.fail(done.stderr)
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_a_client_reads_and_reproduces_every_golden_vector(report: dict[str, str], name: str) -> None:
    """It reproduces messages, tensors, embeddings, gradients and refusals bit for bit; a stream and its example run."""
    if "skipped: " in report[name]:
        pytest.skip(report[name].partition("skipped: ")[2].strip())
    assert " 0 passed" not in report[name]
    assert report[name].rstrip().endswith("passed, ok"), report[name]

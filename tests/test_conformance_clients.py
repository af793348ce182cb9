"""Clients in every language against a real server: those that `clients/conformance` has built from these sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("python", "generic", "typescript", "go", "cpp", "java")


@pytest.fixture(scope="module")
def table() -> dict[str, str]:
    """What `clients/conformance --built` prints: for each client a line, and what failed below it."""
    done = subprocess.run(
        [sys.executable, "-m", "clients.runner", "--built"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in [str(ROOT), *sys.path] if path)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    found: dict[str, str] = {}
    name = ""
    for line in done.stdout.splitlines():
        name = name if line.startswith(" ") else line.split()[0]
        found[name] = found.get(name, "") + line + "\n"
    if not found:
        pytest.fail(done.stderr)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_client_reads_and_reproduces_every_golden_vector(table: dict[str, str], name: str) -> None:
    """Messages, tensors, embeddings, gradients and refusals to the bit, a stream, and its example."""
    if "skipped: " in table[name]:
        pytest.skip(table[name].partition("skipped: ")[2].strip())
    assert " 0 passed" not in table[name]
    assert table[name].rstrip().endswith("passed, ok"), table[name]

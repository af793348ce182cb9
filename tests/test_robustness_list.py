"""Every pytest command in docs/robustness.md selects tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = re.findall(r"`pytest ([^`]+)`", (ROOT / "docs/robustness.md").read_text())


def names_of_tests(paths: list[str]) -> set[str]:
    """Return the names of the tests in files and folders."""
    files = [
        file for path in paths for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py"))
    ]
    return {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}


@pytest.mark.parametrize("command", [pytest.param(command, id=command) for command in COMMANDS])
def test_a_command_selects_tests(command: str) -> None:
    """Each file exists, and each word of `-k` is in the name of one of its tests."""
    paths, _, words = command.partition(" -k ")
    names = names_of_tests(paths.split())
    keywords = words.strip('"').split(" or ") if words else ["test_"]
    assert [word for word in keywords if not any(word in name for name in names)] == []

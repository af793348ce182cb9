"""docs/robustness.md: every command that it names finds tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = re.findall(r"`pytest ([^`]+)`", (ROOT / "docs/robustness.md").read_text())


def names_of_tests(paths: list[str]) -> set[str]:
    """The names of the tests in files and folders."""
    files = [
        file for path in paths for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py"))
    ]
    return {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}


@pytest.mark.parametrize("command", [pytest.param(one, id=one) for one in COMMANDS])
def test_a_command_replays_something(command: str) -> None:
    """Each file is there, and each word of `-k` is in the name of one of its tests."""
    paths, _, words = command.partition(" -k ")
    names = names_of_tests(paths.split())
    wanted = words.strip('"').split(" or ") if words else ["test_"]
    assert [word for word in wanted if not any(word in name for name in names)] == []

"""docs/architecture.md names modules and folders that exist, and all of the server's folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "server/src/midrib/server"
PAGE = (ROOT / "docs/architecture.md").read_text()
MODULES = sorted(set(re.findall(r"`(_\w+(?:/\w+)?\.py)`", PAGE)))


@pytest.mark.parametrize("module", MODULES)
def test_a_named_module_exists(module: str) -> None:
    """A module that moves takes its line of the page along."""
    assert (SERVER / module).is_file()


def test_the_page_lists_every_folder_of_the_server() -> None:
    """A new subpackage gets its line in the table of folders."""
    listed = re.findall(r"^\| `(_\w+)/` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in SERVER.glob("_*/__init__.py"))


def test_the_page_answers_at_least_twenty_five_questions() -> None:
    """The table of questions lets a reader check how well the names of the modules speak for themselves."""
    table = PAGE.partition("## Which module to open")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\| .*\? \| `_\S+\.py` \|$", table, re.MULTILINE)) >= 25

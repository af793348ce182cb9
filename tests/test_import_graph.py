"""The checker that test_floors.py relies on finds each kind of import."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.import_graph import import_circle, import_graph

BACK = {
    "at the top": "from midrib.toy._parts.head import HEAD",
    "relative": "from ._parts import head",
    "in a function": "def late():\n    from midrib.toy._parts import head",
    "for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import midrib.toy._parts.head",
    "by a string": "import importlib\nhead = importlib.import_module('midrib.toy._parts.head')",
}


@pytest.fixture()
def library(tmp_path: Path) -> Path:
    """A source folder with two modules: `_parts/head.py` imports `task.py`."""
    package = tmp_path / "midrib/toy"
    (package / "_parts").mkdir(parents=True)
    (package / "__init__.py").write_text("from midrib.toy.task import TASK")
    (package / "_parts/__init__.py").write_text("")
    (package / "_parts/head.py").write_text("from midrib.toy.task import TASK")
    (package / "task.py").write_text("import torch\n\nTASK = 1")
    return tmp_path


def test_only_modules_of_the_folder_are_in_the_graph(library: Path) -> None:
    """An imported name counts for the module it lies in; other libraries are left out."""
    assert import_graph(library) == {
        "midrib.toy": {"midrib.toy.task"},
        "midrib.toy._parts": set(),
        "midrib.toy._parts.head": {"midrib.toy.task"},
        "midrib.toy.task": set(),
    }


def test_a_graph_without_a_circle_has_none(library: Path) -> None:
    """A package may export a name of a module inside it."""
    assert import_circle(import_graph(library)) == []


@pytest.mark.parametrize("line", BACK.values(), ids=BACK)
def test_a_circle_is_found(library: Path, line: str) -> None:
    """It makes no difference how the import that closes a circle is written."""
    (library / "midrib/toy/task.py").write_text(line)
    assert set(import_circle(import_graph(library))) == {"midrib.toy.task", "midrib.toy._parts.head"}


def test_a_circle_reads_in_the_direction_of_the_imports() -> None:
    """Each module of the list imports the next."""
    assert import_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) in (list("abca"), list("bcab"), list("cabc"))

"""Every pytest command in docs/robustness.md selects tests, and its line says over which fronts they run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = re.findall(r"\| `pytest ([^`]+)` \|([^|]*)\|", (ROOT / "docs/robustness.md").read_text())
# The id of a parameter of the fixtures that start servers over all three fronts.
FRONTS = ("grpcio", "asyncio", "3-fronts")


class Function:
    """A test or fixture. uses: the fixtures that it asks for.  is_of_fronts: whether it is a fixture of all fronts."""

    def __init__(self, definition: ast.FunctionDef | ast.AsyncFunctionDef, marks: set[str]) -> None:
        decorators = " ".join(map(ast.unparse, definition.decorator_list))
        arguments = {argument.arg for argument in definition.args.args}
        self.uses = arguments | marks | set(re.findall(r"usefixtures\('(\w+)'\)", decorators))
        self.is_of_fronts = all(f"'{front}'" in decorators for front in FRONTS)


@cache
def functions(file: Path) -> dict[str, Function]:
    """Return the functions of a file, by name."""
    if not file.exists():
        return {}
    source = file.read_text()
    marks = set(re.findall(r"^pytestmark = pytest.mark.usefixtures\(\"(\w+)\"\)", source, re.MULTILINE))
    definitions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: Function(node, marks if node.name.startswith("test_") else set()) for node in definitions}


def visible(file: Path) -> dict[str, Function]:
    """Return the functions of a test's file and of the conftest files around it. The nearest wins."""
    folders = [folder for folder in reversed(file.parents) if folder.is_relative_to(ROOT)]
    around = [functions(folder / "conftest.py") for folder in folders]
    return {name: function for each in (*around, functions(file)) for name, function in each.items()}


def runs_over_fronts(file: Path, test: str) -> bool:
    """Return whether a test asks for a fixture of all fronts, directly or by another fixture."""
    by_name, waiting, met = visible(file), [test], set[str]()
    while waiting:
        name = waiting.pop()
        if name in met or name not in by_name:
            continue
        if by_name[name].is_of_fronts:
            return True
        met.add(name)
        waiting += by_name[name].uses
    return False


def selected(command: str) -> Iterator[tuple[Path, str]]:
    """Yield the tests of a command, by file and name."""
    paths, _, words = command.partition(" -k ")
    keywords = words.strip('"').split(" or ") if words else ["test_"]
    for path in paths.split():
        for file in [ROOT / path] if path.endswith(".py") else sorted((ROOT / path).rglob("test_*.py")):
            names = [name for name in functions(file) if name.startswith("test_")]
            yield from ((file, name) for name in names if any(word in name for word in keywords))


def fronts(command: str) -> str:
    """Return how many of a command's tests run over all fronts, as the last column of the list says it."""
    over_all = {runs_over_fronts(file, name) for file, name in selected(command)}
    return {frozenset({True}): "all", frozenset({False}): "", frozenset({True, False}): "all, in part"}[
        frozenset(over_all)
    ]


def test_the_list_is_read() -> None:
    """Each line has a command; a line of another form would not be checked."""
    text = (ROOT / "docs/robustness.md").read_text()
    assert len(LINES) == text.count("`pytest ") > 100


@pytest.mark.parametrize("command", [pytest.param(command, id=command) for command, _ in LINES])
def test_a_command_selects_tests(command: str) -> None:
    """Each file exists, and each word of `-k` is in the name of one of its tests."""
    paths, _, words = command.partition(" -k ")
    names = [name for _, name in selected(command)]
    assert [path for path in paths.split() if not (ROOT / path).exists()] == []
    assert [word for word in words.strip('"').split(" or ") if not any(word in name for name in names)] == []


@pytest.mark.parametrize(("command", "column"), [pytest.param(*line, id=line[0]) for line in LINES])
def test_a_line_says_over_which_fronts_its_tests_run(command: str, column: str) -> None:
    """Over all three, or over that of the settings."""
    assert column.strip() == fronts(command)

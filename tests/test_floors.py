"""The house of the design: who may import whom, and what every library has."""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "midrib.registry": 1,
    "midrib.v1": 1,
    "midrib.oip": 1,
    "midrib.backbones": 2,
    "midrib.wire": 2,
    "midrib.remote": 3,
    "midrib.task": 3,
    "midrib.server": 4,
}
HOMES = {path.parent.name: path for path in [*sorted(ROOT.glob("libs/*/src")), ROOT / "server/src"]}
# What a library imports by name, when it is asked to, and says how to install where it is missing.
LATE = {("midrib.remote", "midrib.server.testing")}
BUILT = [name for name in FLOORS if name not in ("midrib.v1", "midrib.oip")]  # those two are generated


def home(library: str) -> Path:
    return HOMES[library.removeprefix("midrib.")]


def imports(library: str) -> Iterator[tuple[str, str]]:
    """Yield (place, absolute name) of all that a library imports, inside functions too."""
    for path in sorted(home(library).rglob("*.py")):
        package = path.relative_to(home(library)).parent.parts
        for node in ast.walk(ast.parse(path.read_text())):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                yield from ((place, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else ()
                base = [*above, *([node.module] if node.module else [])]
                yield from ((place, ".".join([*base, alias.name])) for alias in node.names)
            elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
                yield from (
                    (place, arg.value)
                    for arg in node.args
                    if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                )


def floor(name: str) -> int | None:
    """Return the floor of the library that a name belongs to, None if it is not ours."""
    return FLOORS.get(".".join(name.split(".")[:2]))


def test_every_library_has_a_floor() -> None:
    """A new library is put on a floor here, and so are the rules it lives by."""
    assert {f"midrib.{name}" for name in HOMES} == set(BUILT)


@pytest.mark.parametrize("library", BUILT)
def test_imports_go_only_downwards(library: str) -> None:
    """A library imports what stands on a lower floor, or itself: nothing beside it and nothing above."""
    wrong = [
        f"{place} imports {name}"
        for place, name in imports(library)
        if not f"{name}.".startswith(f"{library}.")
        and (floor(name) or 0) >= FLOORS[library]
        and (library, name) not in LATE
    ]
    assert wrong == []


def test_the_registry_needs_only_the_standard_library() -> None:
    """Whoever lists names should not have to install anything."""
    wrong = [
        f"{place} imports {name}"
        for place, name in imports("midrib.registry")
        if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("midrib.registry")
    ]
    assert wrong == []


def test_midrib_is_a_namespace_package() -> None:
    """One stray midrib/__init__.py would hide every other library."""
    assert [path for src in [*HOMES.values(), ROOT / "protos"] for path in src.glob("midrib/__init__.py")] == []


@pytest.mark.parametrize("library", BUILT)
def test_a_library_is_complete(library: str) -> None:
    """Each has its types, its tests, its wheel and a README that fits on a page."""
    folder = home(library).parent
    assert (home(library) / library.replace(".", "/") / "py.typed").is_file()
    assert list(folder.glob("tests/**/test_*.py"))
    assert "midrib_wheel(" in (folder / "BUILD").read_text()
    assert len((folder / "README.md").read_text().splitlines()) <= 60


def test_sources_and_wheel_declare_the_same_resolvers() -> None:
    """Code that runs from a checkout opens the names that an installed wheel opens."""
    text = (ROOT / "libs/remote/BUILD").read_text()
    [declared] = [
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.keyword) and node.arg == "entry_points"
    ]
    found = configparser.ConfigParser(delimiters="=")
    found.read(ROOT / "libs/remote/src/midrib_remote.egg-info/entry_points.txt")
    assert {section: dict(found[section]) for section in found.sections()} == declared

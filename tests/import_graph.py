"""Read which module of the repository imports which, without running any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def imported_names(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute name) of each import in a file: inside functions and under TYPE_CHECKING too.

    path: the file.  package: the package that its relative imports start from.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names = (arg.value for arg in node.args if isinstance(arg, ast.Constant))
            yield from ((node.lineno, name) for name in names if isinstance(name, str))


def modules(source: Path) -> dict[str, Path]:
    """Return every module below a source folder: its dotted name and its file."""
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def import_graph(source: Path) -> dict[str, set[str]]:
    """Return, for each module below a source folder, the modules below it that it imports.

    Importing a module also runs the packages above it. Those edges are left out: with them, no package could
    export a name of a module inside it.
    """
    files = modules(source)
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for _, target in imported_names(path, package_of(name, path)):
            graph[name] |= _module(target, files) - {name}
    return graph


def import_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one import circle, first module repeated at the end, or an empty list."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]  # graphlib lists a module before those that import it
    return []


def package_of(name: str, path: Path) -> str:
    """Return the package that a module's relative imports start from."""
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def _absolute(node: ast.ImportFrom, package: str) -> str:
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def _module(target: str, files: Mapping[str, Path]) -> set[str]:
    """Return the module that an imported name lies in, as a set of at most one."""
    while target and target not in files:
        target = target.rpartition(".")[0]
    return {target} - {""}

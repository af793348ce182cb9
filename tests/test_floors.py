"""The layout: which library and which subpackage may import which, and the files every library has."""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.import_graph import import_circle, import_graph, imported_names, modules, package_of

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "midrib.media": 1,
    "midrib.registry": 1,
    "midrib.v1": 1,
    "midrib.oip": 1,
    "midrib.backbones": 2,
    "midrib.wire": 2,
    "midrib.remote": 3,
    "midrib.task": 3,
    "midrib.integrations": 4,
    "midrib.ray": 5,
    "midrib.server": 4,
}
SOURCES = {f"midrib.{path.parent.name}": path for path in [*sorted(ROOT.glob("libs/*/src")), ROOT / "server/src"]}
BUILT = [name for name in FLOORS if name not in ("midrib.v1", "midrib.oip")]  # those two are generated
# Imported inside a function, which says how to install the library if it is missing.
LATE = {
    ("midrib.remote", "midrib.server.testing"),
    ("midrib.remote", "midrib.ray.cluster"),
    ("midrib.server", "midrib.ray.cli"),
}
MAX_MODULES = 14

# For each library: the parts of it that each of its subpackages, and each module beside them, may import.
# A name with a dot is a single module. A library that is not listed has no subpackages to keep apart.
_BASE = ["_settings", "_errors", "_engine", "_large"]
_LOADING = [
    *_BASE,
    "_foreign",
    "_compute",
    "_calibration",
    "_worker",
    "_intake",
    "_observability",
    "_shared_memory.memory",
]
_SERVING = [*_BASE, "_intake", "_observability", "_admission", "_catalogue", "_calls"]
_COMMAND = ["_settings", "_load_settings", "_server", "_observability.logs"]
LAYERS: dict[str, dict[str, list[str]]] = {
    "midrib.server": {
        "_field_errors": [],
        "_child_process": [],
        "_descriptors": [],
        "_settings": [],
        "_load_settings": ["_settings", "_field_errors"],
        "_errors": ["_descriptors"],
        "_large": [],
        "_foreign": ["_errors"],
        "_engine": ["_errors"],
        "_compute": ["_errors", "_engine", "_shared_memory.memory"],
        "_calibration": ["_engine", "_compute"],
        "_worker": ["_child_process", "_engine", "_errors", "_foreign", "_compute.joining", "_shared_memory.memory"],
        "_admission": ["_large"],
        "_intake": ["_settings", "_engine", "_large"],
        "_observability": ["_engine"],
        "_catalogue": _LOADING,
        "_calls": ["_engine", "_intake", "_large", "_admission", "_catalogue", "_shared_memory.memory"],
        "_shared_memory": ["_settings", "_admission", "_observability"],
        "_front": ["_large", "_admission.tls", "_child_process", "_descriptors"],
        "_grpc": [*_SERVING, "_shared_memory", "_front"],
        "_http": [*_SERVING, "_field_errors", "_descriptors"],
        "_oip": [*_SERVING, "_grpc"],
        "_connect": [*_SERVING, "_grpc", "_http"],
        "_console": [*_SERVING, "_grpc", "_http"],
        "_server": [
            *_SERVING,
            "_descriptors",
            "_foreign",
            "_compute",
            "_calibration",
            "_grpc",
            "_http",
            "_oip",
            "_connect",
            "_console",
        ],
        "testing": ["_settings", "_server"],
        "_command": _COMMAND,
        # `midrib token` makes a token without a server; `midrib serve` starts the process that forks workers first.
        "cli": [*_COMMAND, "_command", "_admission.tokens", "_catalogue.processes"],
        "__main__": [],
        "": ["_settings", "_load_settings", "_server"],
    },
    "midrib.remote": {
        "_connect": [],
        "_items": [],
        "_shared_memory": [],
        "_stream": ["_connect", "_items", "_shared_memory"],
        "_clients": ["_connect", "_items", "_stream"],
        "_torch": ["_connect", "_items", "_stream", "_clients"],
        "_files": ["_connect", "_items", "_stream", "_clients", "_torch"],
        "_doctor": ["_connect", "_items", "_stream", "_clients", "_torch"],
        "lightning": ["_connect", "_stream", "_clients", "_torch"],
        "testing": [],
        "_command": ["_connect", "_stream", "_clients", "_torch", "_files", "_doctor"],
        "__main__": ["cli"],
        "cli": ["_command"],
        "": ["_connect", "_stream", "_clients", "_torch", "_files", "_doctor"],
    },
    "midrib.task": {
        "_beside_torchvision": [],
        "_parts": [],
        "_features": ["_parts"],
        "_base": ["_parts", "_features"],
        "_callbacks": ["_base", "_parts", "_features"],
        "_saving": ["_base", "_features"],
        "_data": ["_base", "_features"],
        "_tasks": ["_base", "_callbacks", "_parts", "_features", "_saving", "_data"],
        "_command": ["_features", "_data", "_tasks"],
        "template": ["_parts", "_features", "_saving", "_tasks"],
        "testing": ["_parts", "_features", "_saving", "_tasks"],
        "": ["_beside_torchvision", "_callbacks", "_parts", "_features", "_saving", "_data", "_tasks"],
    },
}


def imports(library: str) -> Iterator[tuple[str, str]]:
    """Yield (place, absolute name) of every import in a library."""
    for name, path in modules(SOURCES[library]).items():
        for line, target in imported_names(path, package_of(name, path)):
            yield f"{path.relative_to(ROOT)}:{line}", target


def floor(name: str) -> int | None:
    """Return the floor of the library that a name belongs to, None for a library of others."""
    return FLOORS.get(".".join(name.split(".")[:2]))


def inside(name: str, library: str) -> str:
    """Return a module's name inside its library: "_grpc.guard", or "" for the library's `__init__`."""
    return name.removeprefix(library).removeprefix(".")


def subpackage(name: str, library: str) -> str:
    """Return the subpackage that a module lies in, or its name if it lies beside them."""
    return inside(name, library).partition(".")[0]


def allowed(module: str, target: str, library: str) -> bool:
    """Return whether the table above lets one module of a library import another."""
    home, name = subpackage(module, library), inside(target, library)
    return any(f"{name}.".startswith(f"{layer}.") for layer in [home, *LAYERS[library][home]])


def test_every_library_has_a_floor() -> None:
    """A new library gets its floor here, and with it the rules of this file."""
    assert set(SOURCES) == set(BUILT)


@pytest.mark.parametrize("library", BUILT)
def test_imports_go_only_downwards(library: str) -> None:
    """A library imports itself and the libraries on lower floors."""
    wrong = [
        f"{place} imports {name}"
        for place, name in imports(library)
        if not f"{name}.".startswith(f"{library}.")
        and (floor(name) or 0) >= FLOORS[library]
        and (library, name) not in LATE
    ]
    assert wrong == []


@pytest.mark.parametrize("library", LAYERS)
def test_every_subpackage_is_in_the_table(library: str) -> None:
    """A new subpackage gets its line here, and so does a new module beside the subpackages."""
    assert {subpackage(name, library) for name in modules(SOURCES[library]) if name != "midrib"} == set(LAYERS[library])


@pytest.mark.parametrize("library", LAYERS)
def test_a_subpackage_imports_only_those_in_the_table(library: str) -> None:
    """Imports between the subpackages of a library go one way."""
    wrong = [
        f"{module} imports {target}"
        for module, targets in import_graph(SOURCES[library]).items()
        for target in sorted(targets)
        if not allowed(module, target, library)
    ]
    assert wrong == []


@pytest.mark.parametrize("library", BUILT)
def test_no_module_imports_itself_through_others(library: str) -> None:
    """Imports inside functions and for types count too: a circle is one unit, in however many files."""
    assert import_circle(import_graph(SOURCES[library])) == []


@pytest.mark.parametrize("library", BUILT)
def test_a_folder_holds_few_modules(library: str) -> None:
    """A reader finds a behaviour by the names in a folder only if they are few."""
    sizes: dict[str, int] = {}
    for path in SOURCES[library].rglob("*.py"):
        folder = str(path.parent.relative_to(ROOT))
        sizes[folder] = sizes.get(folder, 0) + (path.name != "__init__.py")
    assert {folder: size for folder, size in sizes.items() if size > MAX_MODULES} == {}


@pytest.mark.parametrize("library", BUILT)
def test_a_subpackage_says_its_purpose_in_one_line(library: str) -> None:
    """A reader sees the docstring of its `__init__` first."""
    packages = {name: path for name, path in modules(SOURCES[library]).items() if path.name == "__init__.py"}
    purposes = {name: ast.get_docstring(ast.parse(path.read_text())) or "" for name, path in packages.items()}
    assert [name for name, purpose in purposes.items() if name != library and len(purpose.splitlines()) != 1] == []


def test_the_registry_needs_only_the_standard_library() -> None:
    """Listing names needs no installation."""
    wrong = [
        f"{place} imports {name}"
        for place, name in imports("midrib.registry")
        if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("midrib.registry")
    ]
    assert wrong == []


def test_midrib_is_a_namespace_package() -> None:
    """A single midrib/__init__.py would hide all other libraries."""
    assert [path for src in [*SOURCES.values(), ROOT / "protos"] for path in src.glob("midrib/__init__.py")] == []


@pytest.mark.parametrize("library", BUILT)
def test_a_library_is_complete(library: str) -> None:
    """Each has its types, its tests, its wheel and a README that fits on a page."""
    source = SOURCES[library]
    assert (source / library.replace(".", "/") / "py.typed").is_file()
    assert list(source.parent.glob("tests/**/test_*.py"))
    assert "midrib_wheel(" in (source.parent / "BUILD").read_text()
    assert len((source.parent / "README.md").read_text().splitlines()) <= 60


def test_sources_and_wheel_declare_the_same_resolvers() -> None:
    """Code that runs from a checkout opens the names that an installed wheel opens."""
    text = (ROOT / "libs/remote/BUILD").read_text()
    [declared] = [
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.keyword) and node.arg == "entry_points"
    ]
    installed = configparser.ConfigParser(delimiters="=")
    installed.read(ROOT / "libs/remote/src/midrib_remote.egg-info/entry_points.txt")
    assert {section: dict(installed[section]) for section in installed.sections()} == declared

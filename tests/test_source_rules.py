"""Rules of the sources that no linter knows: names, documented shapes and errors, and errors that show a value."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for folder in ("libs/*/src", "server/src") for src in ROOT.glob(folder) for path in src.rglob("*.py")]
TESTS = [path for folder in ("tests", "libs/*/tests", "server/tests") for path in ROOT.glob(f"{folder}/**/*.py")]
# The same thing in process and through a server: users learn one name.
SHARED_NAMES = {"InputKindError", "RunningServer"}
TENSOR = re.compile(r"\b(Tensor|Arrays?|NDArray|ArrayLike)\b")
# [rows, num_features], [...] for any shape, [] for a scalar; neither a subscript such as list[str] nor a link.
SHAPE = re.compile(r"(?<![\w\])])\[[\w.*+/, ]*\](?!\()")
ERROR = re.compile(r"\b([Rr]aises?|[Ee]xits|[Ss]kipped|\w+Error)\b")
# Python itself expects these of __getattr__, __next__ and their like.
PROTOCOL_ERRORS = re.compile(r"AttributeError|Stop(Async)?Iteration")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


def place(path: Path, node: ast.expr | ast.stmt) -> str:
    """Return where a node is, as path:line."""
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def functions(path: Path) -> Iterator[tuple[Function, str]]:
    """Yield each function with its docstring; the class's docstring speaks for `__init__` and `__post_init__`."""
    tree = parsed(path)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    inits = {id(init): ast.get_docstring(node) or "" for node in classes for init in node.body}
    for node in ast.walk(tree):
        if isinstance(node, Function):
            of_class = inits.get(id(node), "") if node.name in ("__init__", "__post_init__") else ""
            yield node, of_class + (ast.get_docstring(node) or "")


def annotated_types(function: Function) -> str:
    """Return the annotations of the parameters and of the result."""
    arguments = (node.annotation for node in ast.walk(function.args) if isinstance(node, ast.arg))
    return " ".join(ast.unparse(annotation) for annotation in (*arguments, function.returns) if annotation)


def raised(node: ast.AST) -> Iterator[ast.Raise]:
    """Yield the `raise` statements of a function that name an error, without those of the functions inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise) and child.exc is not None:
            yield child
        if not isinstance(child, Function | ast.ClassDef | ast.Lambda):
            yield from raised(child)


def shows_a_value(error: ast.Call) -> bool:
    """Return whether an error is made of more than constants, such as texts and codes."""
    nodes = [node for argument in error.args for node in ast.walk(argument)]
    return any(isinstance(node, ast.FormattedValue | ast.Call) for node in nodes) or any(
        isinstance(node, ast.Name) and node.id.islower() for node in error.args
    )


def test_two_classes_never_share_a_name() -> None:
    """A name means one thing in the whole repository."""
    files = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef) and node.name not in SHARED_NAMES:
                files[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in files.items() if len(paths) > 1} == {}


def test_public_functions_over_tensors_give_the_shapes() -> None:
    """The docstring has at least one shape in brackets, whether a tensor or array is taken or returned."""
    assert [
        f"{place(path, function)} {function.name}"
        for path in SOURCES
        for function, docstring in functions(path)
        if not function.name.startswith("_")
        and TENSOR.search(annotated_types(function))
        and not SHAPE.search(docstring)
    ] == []


def test_functions_that_raise_say_so() -> None:
    """The docstring names the error, or the exit status of a command; also of private functions."""
    assert [
        f"{place(path, function)} {function.name}"
        for path in SOURCES
        for function, docstring in functions(path)
        if not ERROR.search(docstring)
        and any(not PROTOCOL_ERRORS.match(ast.unparse(node.exc or node)) for node in raised(function))
    ] == []


def test_nine_of_ten_errors_show_a_value() -> None:
    """The reader of an error sees the value that caused it, and need not reproduce it."""
    errors = [
        (place(path, node), node.exc)
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
    ]
    silent = [where for where, error in errors if not shows_a_value(error)]
    assert len(silent) <= 0.1 * len(errors), silent


def test_tests_of_errors_match_the_message() -> None:
    """`pytest.raises` without `match` passes for any error of the type, also for one with another cause."""
    assert [
        place(path, node)
        for path in TESTS
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "pytest.raises"
        and all(keyword.arg != "match" for keyword in node.keywords)
    ] == []

"""The client's rules on which the results of the simulation depend."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from midrib.remote._connect import balance, dns, retries
from midrib.remote._stream import window


def rules() -> dict[str, float | str]:
    """Return the numeric constants of the modules whose rules are simulated, and a digest of each rule's code."""
    constants: dict[str, float | str] = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (balance, dns, retries, window)
        for name, value in sorted(vars(module).items())
        if name.isupper() and isinstance(value, int | float)
    }
    simulated = (balance.by_load, balance.count_slots, balance.choose_machines, retries.wait_s, window.StreamWindow)
    return constants | {rule.__name__: _digest(rule) for rule in simulated}


def _digest(rule: Callable[..., Any]) -> str:
    """Return a digest of a function's or a class's code, without its comments and docstrings."""
    tree = ast.parse(inspect.getsource(rule))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]

"""Rules of the sources that no linter knows."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for folder in ("libs/*/src", "server/src") for src in ROOT.glob(folder) for path in src.rglob("*.py")]
# The same thing in process and through a server: users learn one name.
SHARED_NAMES = {"InputKindError", "RunningServer"}


def test_two_classes_never_share_a_name() -> None:
    """A name means one thing in the whole repository."""
    files = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name not in SHARED_NAMES:
                files[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in files.items() if len(found) > 1} == {}

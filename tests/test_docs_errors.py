"""docs/errors.md lists every reason that the code can give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.rpc import code_pb2

from midrib import wire
from midrib.remote._connect.diagnosis import CAUSES
from midrib.wire import MidribError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/errors.md").read_text()
ROWS = {
    cells[0].strip("`"): cells for cells in re.findall(r"^\| (`[A-Z_]+`) \| `(\w+)` \| ([^|]+?) \|", PAGE, re.MULTILINE)
}
FAMILY = [kind for kind in vars(wire).values() if isinstance(kind, type) and issubclass(kind, MidribError)]


def reasons(path: Path) -> Iterator[str]:
    """Yield the reasons that a module writes: `reason="..."` and `default_reason = "..."`."""
    for node in ast.walk(ast.parse(path.read_text())):
        keyword = isinstance(node, ast.keyword) and node.arg == "reason"
        default = isinstance(node, ast.Assign | ast.AnnAssign) and "default_reason" in ast.dump(node)
        value = getattr(node, "value", None) if keyword or default else None
        if isinstance(value, ast.Constant) and re.fullmatch("[A-Z_]+", str(value.value)):
            yield str(value.value)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in FAMILY])
def test_a_class_of_errors_is_listed_with_its_status(kind: type[MidribError]) -> None:
    """The page names the class, its reason and its gRPC status."""
    _, name, statuses = ROWS[kind.default_reason]
    assert (name, statuses.split(",")[0]) == (kind.__name__, code_pb2.Code.Name(kind.code))


def test_every_reason_is_listed_and_no_other() -> None:
    """A reason that only the source knows does not help the person who sees it."""
    sources = [*ROOT.glob("libs/*/src/**/*.py"), *ROOT.glob("server/src/**/*.py")]
    assert {reason for path in sources for reason in reasons(path)} | {cause.reason for cause in CAUSES} == set(ROWS)

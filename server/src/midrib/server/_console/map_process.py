"""The process that reads one embedding file and computes its map: a file cannot harm the server from here.

It reads the file from stdin, and writes the map to stdout as JSON: points as the base64 of float32 [rows, 2].
"""

from __future__ import annotations

import base64
import json
import os
import resource
import sys
from collections.abc import Sequence
from typing import Any

from midrib.server._console.projection import project
from midrib.server._console.table import FileError, plain, read_table

# The exit status for a file that its sender can mend; stdout has the reason.
WRONG_FILE = 3
_MAX_MEMORY_BYTES = 8 * 2**30
# The CPU time of a map in seconds, by the method. UMAP compiles before it computes.
_MAX_CPU_S = {"pca": 60, "umap": 600}
_MAX_ANSWER_CHARS = 24 * 2**20
_MAX_TEXT = 300
_MAX_PICTURE = 2**16
_MAX_CATEGORIES = 30


def main(kind: str, method: str) -> int:
    """Draw the file on stdin.  kind: the ending of its name.  method: "pca" or "umap".  Return the exit status."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_S[method], _MAX_CPU_S[method]))
    os.nice(10)  # the replicas of the server come first
    try:
        answer = json.dumps(drawn(kind, method, sys.stdin.buffer.read()))
        status = 0
    except FileError as error:
        answer, status = str(error), WRONG_FILE
    except MemoryError:
        answer, status = f"the file needs more than {_MAX_MEMORY_BYTES} bytes of memory: send a sample", WRONG_FILE
    sys.stdout.write(answer)
    return status


def drawn(kind: str, method: str, data: bytes) -> dict[str, Any]:
    """Return the map of a file. Raises FileError for a file or a method that cannot be drawn."""
    table = read_table(kind, data)
    points, shares = project(method, table.vectors)
    columns, room = [], _MAX_ANSWER_CHARS
    left_out = []
    for name, values in table.columns.items():
        column = _column(name[:_MAX_TEXT], values)
        room -= sum(len(str(value)) for value in column["values"])
        if len(values) == len(points) and room > 0:
            columns.append(column)
        else:
            left_out.append(column["name"])
    return {
        "method": method,
        "width": table.vectors.shape[1],
        "points": base64.b64encode(points.astype("<f4").tobytes()).decode(),
        "shares": shares,
        "columns": columns,
        "left_out": left_out,
    }


def _column(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return a column and its kind: "number", "picture" (data URLs), "category" (few distinct texts) or "text"."""
    present = [value for value in values if value is not None]
    if present and all(str(value).startswith("data:image/") for value in present):
        pictures = [value if value is None or len(value) <= _MAX_PICTURE else None for value in values]
        return {"name": name, "kind": "picture", "values": pictures}
    cells = [plain(value, _MAX_TEXT) for value in values]
    if present and all(isinstance(cell, int | float) for cell in cells if cell is not None):
        kind = "number"
    else:
        cells = [None if cell is None else str(cell) for cell in cells]
        kind = "category" if len(set(cells)) <= min(_MAX_CATEGORIES, max(2, len(cells) // 2)) else "text"
    return {"name": name, "kind": kind, "values": cells}

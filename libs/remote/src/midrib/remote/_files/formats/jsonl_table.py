"""Tables in JSON lines: one object per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from midrib.remote._files.formats.columns import InputColumns, ReadRow
from midrib.remote._files.formats.encodings import open_text
from midrib.remote._files.storage import LocalFile


def read_jsonl(file: LocalFile, columns: InputColumns) -> Iterator[ReadRow]:
    """Yield the rows; an object without a column gives None for it. Empty lines are skipped.

    Raises InvalidInputError for an unknown encoding, and, after the last row, for a column that no object has.
    """
    names: dict[str, None] = {}
    with open_text(file) as lines:
        for line in lines:
            if not line.strip():
                continue
            row = _parse(line)
            if isinstance(row, dict):
                names.update(dict.fromkeys(row))
                row = {name: row.get(name) for name in (columns.id, columns.value, *columns.kept)}
            yield row
    if names:
        columns.needed(list(names), file.name)


def _parse(line: str) -> ReadRow:
    try:
        record = json.loads(line)
    except RecursionError:
        return "it is not read: its JSON is nested too deeply"
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error}"
    except ValueError:
        return f"it is not read: it holds a number of more than {sys.get_int_max_str_digits()} digits"
    return record if isinstance(record, dict) else f"it is a JSON {type(record).__name__}, expected an object"

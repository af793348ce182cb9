"""Rows of tables in CSV, JSON lines and Parquet. For a row that cannot be read, its error as a string."""

from __future__ import annotations

import csv
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from midrib.remote._files.encodings import open_text
from midrib.wire import InvalidInputError

Record: TypeAlias = dict[str, Any]
TABLES: Final = frozenset({".csv", ".tsv", ".jsonl", ".parquet"})
_SEPARATORS: Final = (",", ";", "\t", "|")
# A quote that is still open after this many characters is taken for one that never closes.
_LONGEST_ROW_CHARS: Final = 16 * 2**20
_OPEN_QUOTE: Final = "unexpected end of data"  # the csv module's words for it


def read_table(path: Path, column: str, id_column: str) -> Iterator[Record | str]:
    """Yield the rows of a table as {column: value}, or the reason why a row cannot be read.

    column, id_column: the columns that are needed; Parquet reads no others.
    Raises InvalidInputError for a table in an unknown encoding, and for CSV and Parquet without the column.
    """
    if path.suffix.lower() == ".parquet":
        yield from _read_parquet(path, column, id_column)
    elif path.suffix.lower() == ".jsonl":
        with open_text(path) as lines:
            yield from (_parse_json(line) for line in lines if line.strip())
    else:
        with open_text(path, newline="") as lines:
            yield from _read_csv(path, lines, column, id_column)


def check_column(path: Path, column: str, names: Iterable[str]) -> None:
    """Raise InvalidInputError unless the column is one of the names."""
    names = list(names)
    if column not in names:
        raise InvalidInputError(f"{path} has no column {column!r}: it has {', '.join(names) or 'none'}")


def _read_parquet(path: Path, column: str, id_column: str) -> Iterator[Record]:
    from pyarrow import ArrowInvalid, parquet  # type: ignore[import-untyped] # it has no types

    try:
        file = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise InvalidInputError(f"{path} cannot be read as Parquet: {error}") from error
    names = file.schema_arrow.names
    check_column(path, column, names)
    needed = [name for name in (id_column, column) if name in names]
    for batch in file.iter_batches(columns=needed):
        yield from batch.to_pylist()


def _parse_json(line: str) -> Record | str:
    try:
        record = json.loads(line)
    except RecursionError:
        return "it is not read: its JSON is nested too deeply"
    except ValueError as error:
        return f"it is not JSON: {error}"
    return record if isinstance(record, dict) else f"it is a JSON {type(record).__name__}, expected an object"


def _read_csv(path: Path, lines: Iterable[str], column: str, id_column: str) -> Iterator[Record | str]:
    csv.field_size_limit(sys.maxsize)  # the default refuses fields over 131,072 characters
    source = _Lines(lines)
    first = next(source, None)
    if first is None:
        return
    source.rewind(0)
    separator = _separator(path, first, {column, id_column})
    rows = _csv_rows(source, separator)
    header = next(rows)
    if isinstance(header, str):
        raise InvalidInputError(f"{path}: the header cannot be read: {header}")
    check_column(path, column, header)
    for row in rows:
        if isinstance(row, str):
            yield row
        elif len(row) > len(header):
            yield f"it has {len(row)} fields, the header has {len(header)}: quote fields that hold {separator!r}"
        else:
            yield dict(zip(header, row, strict=False))


def _separator(path: Path, header: str, columns: set[str]) -> str:
    """Return the separator by which the header has the most of the columns that are needed, then the most columns."""
    if path.suffix.lower() == ".tsv":
        return "\t"

    def fit(separator: str) -> tuple[int, int]:
        names = next(csv.reader([header], delimiter=separator), [])
        return len(columns & set(names)), len(names)

    return max(_SEPARATORS, key=fit)


def _csv_rows(source: _Lines, separator: str) -> Iterator[list[str] | str]:
    """Yield rows; if a quote never closes, only the line that opens it is lost."""
    while True:
        source.begin_row()
        try:
            row = next(csv.reader(source, delimiter=separator, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            if _OPEN_QUOTE in str(error):
                source.rewind(1)
                yield "it opens a quote that is never closed"
                continue
            row = next(csv.reader(source.row, delimiter=separator))  # stray quotes, which other programs read too
        if row:
            yield row


class _Lines:
    """The lines of a file, of which those of the current row can be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self._chars = 0
        self.row: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._chars > _LONGEST_ROW_CHARS:
            raise csv.Error(_OPEN_QUOTE)
        line = self._again.popleft() if self._again else next(self._lines)
        self.row.append(line)
        self._chars += len(line)
        return line

    def begin_row(self) -> None:
        """Forget the lines of the row before."""
        self.row, self._chars = [], 0

    def rewind(self, kept: int) -> None:
        """Give the lines of the row again, without the first `kept`."""
        self._again.extendleft(reversed(self.row[kept:]))
        self.begin_row()

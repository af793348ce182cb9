"""Tables in CSV and TSV, as spreadsheets and databases write them."""

from __future__ import annotations

import csv
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from midrib.remote._files.formats.columns import InputColumns, ReadRow
from midrib.remote._files.formats.encodings import open_text
from midrib.remote._files.storage import LocalFile
from midrib.wire import InvalidInputError

_SEPARATORS: Final = (",", ";", "\t", "|")
# A quote that is still open after this many characters is taken for one that never closes.
_LONGEST_ROW_CHARS: Final = 16 * 2**20
# The line that tells Excel the separator.
_EXCEL_SEPARATOR: Final = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_OPEN_QUOTE: Final = "unexpected end of data"  # the csv module's words for it


def read_csv(file: LocalFile, columns: InputColumns) -> Iterator[ReadRow]:
    """Yield the rows. A row that cannot be read costs only itself.

    Raises InvalidInputError for an unknown encoding, an unreadable header, or missing or repeated columns.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses fields over 131,072 characters
    with open_text(file, newline="") as lines:
        yield from _rows(file, _Lines(lines), columns)


def _rows(file: LocalFile, lines: _Lines, columns: InputColumns) -> Iterator[ReadRow]:
    """Yield the rows of a table. Raises InvalidInputError if its header cannot be read."""
    first = next(lines, None)
    if first is None:
        return
    declared = _EXCEL_SEPARATOR.fullmatch(first)
    if declared is None:
        lines.rewind(0)
        separator = "\t" if file.suffix == ".tsv" else _separator(first, columns)
    else:
        separator = declared[1]
    rows = _csv_rows(lines, separator)
    header = next(rows, [])
    if isinstance(header, str):
        raise InvalidInputError(f"{file.name}: the header cannot be read: {header}")
    needed = columns.needed(header, file.name)
    for row in rows:
        if isinstance(row, str):
            yield row
        elif len(row) > len(header):
            yield f"it has {len(row)} fields, the header has {len(header)}: quote fields that hold {separator!r}"
        else:
            fields = dict(zip(header, row, strict=False))
            yield {name: fields.get(name) for name in needed}


def _separator(header: str, columns: InputColumns) -> str:
    """Return the separator by which the header has the most of the needed columns, then the most columns."""
    needed = {columns.id, columns.value, *columns.kept}

    def fit(separator: str) -> tuple[int, int]:
        names = next(csv.reader([header], delimiter=separator), [])
        return len(needed & set(names)), len(names)

    return max(_SEPARATORS, key=fit)


def _csv_rows(lines: _Lines, separator: str) -> Iterator[list[str] | str]:
    """Yield rows; if a quote never closes, only the line that opens it is lost."""
    while True:
        lines.begin_row()
        try:
            row = next(csv.reader(lines, delimiter=separator, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            # A quote is not closed either if the row continues over lines until the quote of another row.
            if _OPEN_QUOTE in str(error) or len(lines.row) > 1:
                lines.rewind(1)
                yield "it opens a quote that is never closed"
                continue
            row = next(csv.reader(lines.row, delimiter=separator))  # stray quotes, which other programs read too
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
        """Return the next line. Raises csv.Error for a row so long that a quote must be open."""
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

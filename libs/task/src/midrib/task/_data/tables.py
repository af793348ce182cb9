"""Tables in CSV and JSON files, data frames and Hugging Face datasets, as columns."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midrib.task._data.samples import Skipped
from midrib.task._features.media import decode_text, read_bytes

_SEPARATORS = ",;\t|"
_OPEN_QUOTE = "unexpected end of data"  # the csv module's words


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    name: the table's, in errors.  folder: the folder that relative paths in it start from.
    class_names: for a column of class indices, their names.  places: the place of each row in its file, such as
    "a.csv:3".  skipped: the rows that could not be read.
    """

    name: str
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[str]
    folder: Path = field(default_factory=Path)
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    def column(self, name: str) -> Sequence[Any]:
        """Return a column.  Raises ValueError, with the names of the columns, if there is none of this name."""
        if name not in self.columns:
            raise ValueError(f"{self.name} has no column {name!r}: it has {', '.join(self.columns) or 'none'}")
        return self.columns[name]


def read_csv(path: Path) -> Table:
    """Read CSV with a header; the separator is the one of , ; tab | that the header has most.

    Rows with more fields than the header are left out.  Raises ValueError for an unknown encoding, a file without rows,
    two columns of one name, and a quote that is never closed.
    """
    text = decode_text(read_bytes(path), path)
    first = next(iter(io.StringIO(text, newline=None)), "")
    separator = "\t" if path.suffix.lower() == ".tsv" else max(_SEPARATORS, key=first.count)
    header, *rows = _csv_rows(path, text, separator) or [("", [""])]
    names = [name.strip() for name in header[1]]
    require_distinct(path, names)
    return _from_records(path, ((place, _record(names, row, separator)) for place, row in rows))


def require_distinct(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError if two columns have the same name."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has several columns {', '.join(map(repr, twice))}: give each a name")


def _csv_rows(path: Path, text: str, separator: str) -> list[tuple[str, list[str]]]:
    """Return (place, fields) of each row. Raises ValueError if a quote is never closed."""
    csv.field_size_limit(sys.maxsize)  # the default refuses fields over 131,072 characters
    lines, number = io.StringIO(text, newline=""), 0
    rows: list[tuple[str, list[str]]] = []
    while True:
        row_lines: list[str] = []
        try:
            row = next(csv.reader(_recorded(lines, row_lines), delimiter=separator, strict=True))
        except StopIteration:
            return rows
        except csv.Error as error:
            # If the row continues over several lines, until the quote of another row, its quote is not closed either.
            if _OPEN_QUOTE in str(error) or len(row_lines) > 1:
                raise ValueError(f"{path}:{number + 1} is not CSV ({error}): is a quote never closed?") from error
            row = next(csv.reader(row_lines, delimiter=separator))  # stray quotes, which other programs read too
        number += len(row_lines)
        if row:
            rows.append((f"{path}:{number}", row))


def _recorded(lines: Iterable[str], record: list[str]) -> Iterator[str]:
    for line in lines:
        record.append(line)
        yield line


def _record(header: list[str], row: list[str], separator: str) -> Mapping[str, Any] | str:
    if len(row) > len(header):
        return f"it has {len(row)} fields, the header has {len(header)}: quote fields that hold {separator!r}"
    return dict(zip(header, [*row, *[None] * (len(header) - len(row))], strict=True))


def read_json(path: Path) -> Table:
    """Read JSON: one array of objects, one object of columns, or an object on each line.

    Lines that are not objects are left out.  Raises ValueError for a file in another form.
    """
    text = decode_text(read_bytes(path), path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):  # an array, not an object on each line
            raise ValueError(f"{path} cannot be read as JSON ({error}): write it again") from error
        content = None
    if isinstance(content, dict) and all(isinstance(column, list) for column in content.values()):
        return _from_columns(path, content)
    if isinstance(content, list):
        return _from_records(path, ((f"{path}[{row}]", _object(value)) for row, value in enumerate(content)))
    # Not splitlines: it divides at characters that JSON has within strings, such as U+2028.
    lines = enumerate(io.StringIO(text, newline=None), 1)
    return _from_records(path, ((f"{path}:{number}", _line(line)) for number, line in lines if line.strip()))


def _from_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> Table:
    """Return columns as a table. Raises ValueError if their lengths differ."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path} has columns of different lengths, {lengths}: give each row a value in every column")
    rows = max(lengths.values(), default=0)
    return Table(str(path), columns, [f"{path}[{row}]" for row in range(rows)], path.parent)


def _object(value: Any) -> Mapping[str, Any] | str:
    return value if isinstance(value, dict) else f"it is a JSON {type(value).__name__}, expected an object"


def _line(line: str) -> Mapping[str, Any] | str:
    try:
        return _object(json.loads(line))
    except RecursionError:
        return "its JSON is nested too deeply"
    except ValueError as error:
        return f"it is not JSON: {error}"


def from_dataframe(frame: Any) -> Table:
    """Return the columns of a pandas or polars data frame.  Raises TypeError for another object."""
    if not hasattr(frame, "columns"):
        raise TypeError(f"got {type(frame).__name__}, expected a data frame of pandas or polars")
    columns = {str(name): frame[name].to_list() for name in frame.columns}
    return Table("the data frame", columns, [f"row {row}" for row in range(len(frame))])


def from_hf_dataset(dataset: Any) -> Table:
    """Return the columns of a Hugging Face dataset; values are decoded when a row is used.

    Raises TypeError for a dictionary of several splits, or another object.
    """
    if not hasattr(dataset, "column_names") or isinstance(dataset, Mapping):
        splits = f" of {', '.join(map(str, dataset))}" if isinstance(dataset, Mapping) else ""
        raise TypeError(f"got a {type(dataset).__name__}{splits}, expected one split, as in dataset['train']")
    columns = {name: LazyColumn(dataset.select_columns([name]), name) for name in dataset.column_names}
    names = {name: _class_names(feature) for name, feature in (getattr(dataset, "features", None) or {}).items()}
    places = [f"row {row}" for row in range(len(dataset))]
    return Table("the dataset", columns, places, class_names={name: value for name, value in names.items() if value})


def _class_names(feature: Any) -> list[str]:
    """Return the names in a ClassLabel, or in a Sequence of one."""
    return list(getattr(getattr(feature, "feature", feature), "names", None) or ())


@dataclass(frozen=True)
class DatasetValue:
    """One value of a Hugging Face dataset, decoded when it is read."""

    dataset: Any
    row: int
    column: str

    def read(self) -> Any:
        """Return the value."""
        return self.dataset[self.row][self.column]


class LazyColumn(Sequence[Any]):
    """A column of a Hugging Face dataset, whose items are read later."""

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset = dataset
        self._name = name

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: Any) -> Any:
        """Return a row. Raises IndexError after the last one."""
        if row >= len(self):
            raise IndexError(row)
        return DatasetValue(self._dataset, row, self._name)

    def values(self) -> list[Any]:
        """Return all values, decoded."""
        return list(self._dataset[self._name])


def _from_records(path: Path, records: Iterable[tuple[str, Mapping[str, Any] | str]]) -> Table:
    """Turn records into columns; a record that is a string is the reason why its row is left out.

    Raises ValueError if no rows remain.
    """
    rows: list[tuple[str, Mapping[str, Any]]] = []
    skipped: list[Skipped] = []
    for place, record in records:
        if isinstance(record, str):
            skipped.append(Skipped(place, record))
        else:
            rows.append((place, record))
    if not rows and not skipped:
        raise ValueError(f"{path} is empty, expected a header and rows, or JSON objects")
    if not rows:
        raise ValueError(f"{path} holds no rows: {skipped[0].row}: {skipped[0].reason}")
    names = dict.fromkeys(name for _, record in rows for name in record)
    columns = {name: [record.get(name) for _, record in rows] for name in names}
    return Table(str(path), columns, [place for place, _ in rows], path.parent, skipped=tuple(skipped))

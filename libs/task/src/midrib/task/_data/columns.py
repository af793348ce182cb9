"""Which columns of a table hold the inputs and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from midrib.task._data.samples import Samples, labelled
from midrib.task._data.tables import LazyColumn, Table
from midrib.task._features.media import is_missing

_LABELS = ("label", "labels", "target", "targets", "class", "classes", "category")
_TRUE = frozenset({"1", "1.0", "true", "yes"})
_FALSE = frozenset({"0", "0.0", "false", "no", ""})

ColumnLike: TypeAlias = str | Sequence[str] | None


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    input: the name, or for rows of numbers several; None: the usual names, or the only column that is left.
    label: the name, or for multi-label data several columns of 0 and 1; None: the usual names.
    label_separator: divides several labels in one cell, such as "cat|dog".
    """

    input: ColumnLike = None
    label: ColumnLike = None
    label_separator: str | None = None


def samples_of(table: Table, columns: Columns, usual: Sequence[str], *, has_labels: bool) -> Samples:
    """Return a table's rows with their labels.

    usual: the usual names of a column of inputs; none for rows of numbers, which take all columns but the labels.
    Raises ValueError, with the names of the table's columns, if the columns cannot be found.
    """
    label = _label_column(table, columns)
    if label is None and has_labels:
        raise ValueError(
            f"{table.name} has the columns {', '.join(table.columns)}: name the one with the labels by label=, or "
            "in the command by --label"
        )
    sources = _inputs(table, columns, label, usual)
    labels = _labels(table, label, columns.label_separator) if has_labels and label is not None else None
    samples = labelled(sources, labels, table.places)
    return replace(samples, skipped=table.skipped + samples.skipped)


def _label_column(table: Table, columns: Columns) -> str | tuple[str, ...] | None:
    if columns.label is not None:
        return columns.label if isinstance(columns.label, str) else tuple(columns.label)
    return next((name for name in table.columns if name.lower() in _LABELS), None)


def _inputs(table: Table, columns: Columns, label: ColumnLike, usual: Sequence[str]) -> Sequence[Any]:
    """Return the inputs of the rows. Raises ValueError if the names of their columns must be passed."""
    labels = (label,) if isinstance(label, str) else tuple(label or ())
    rest = [name for name in table.columns if name not in labels]
    if isinstance(columns.input, str):
        return table.column(columns.input)
    if columns.input is not None or not usual:
        names = rest if columns.input is None else list(columns.input)
        return list(zip(*(_values(table, name) for name in names), strict=True))
    likely = [name for word in usual for name in rest if name.lower() == word] or rest
    if likely == rest and len(rest) != 1:
        raise ValueError(
            f"{table.name} has the columns {', '.join(table.columns)}: name the one with the inputs by input=, "
            "or in the command by --input (`midrib predict`: --column)"
        )
    return table.column(likely[0])


def _labels(table: Table, label: str | tuple[str, ...], separator: str | None) -> list[Any]:
    if isinstance(label, str):
        names = table.class_names.get(label)
        return [_label(cell, names, separator) for cell in _values(table, label)]
    flags = [[_flag(table, name, cell) for cell in _values(table, name)] for name in label]
    return [tuple(name for name, flag in zip(label, row, strict=True) if flag) for row in zip(*flags, strict=True)]


def _label(cell: Any, names: Sequence[str] | None, separator: str | None) -> Any:
    if separator is not None and isinstance(cell, str):
        return [part.strip() for part in cell.split(separator) if part.strip()]
    if names is None or is_missing(cell):
        return cell
    return [names[index] for index in cell] if isinstance(cell, list) else names[cell] if cell >= 0 else None


def _flag(table: Table, column: str, cell: Any) -> bool:
    """Return whether a cell is 1. Raises ValueError for another value than 0 or 1."""
    value = "" if is_missing(cell) else str(cell).strip().lower()
    if value not in _TRUE | _FALSE:
        raise ValueError(f"column {column!r} of {table.name} holds {cell!r}, expected 0 or 1 for each row")
    return value in _TRUE


def _values(table: Table, name: str) -> Sequence[Any]:
    column = table.column(name)
    return column.values() if isinstance(column, LazyColumn) else column

"""Rows of Arrow's record batches, from Parquet and Arrow files."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, Final

from midrib.remote._files.formats.columns import Record
from midrib.wire import InvalidInputError

# Each row becomes Python objects, so that a batch of millions is converted in parts.
_ROWS_PER_PART: Final = 65_536


def require_pyarrow(name: str) -> None:
    """Raise InvalidInputError, with the install line, if a file of that name needs pyarrow and it is missing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise InvalidInputError(f"{name} needs pyarrow: pip install 'midrib-remote[parquet]'")


def refuse_times(schema: Any, column: str, name: str) -> None:
    """Raise InvalidInputError if the column of the values holds times: some of them Python could read as texts only."""
    from pyarrow import types  # type: ignore[import-untyped] # it has no types

    kind = schema.field(column).type
    if types.is_temporal(kind):
        raise InvalidInputError(f"column {column!r} of {name} holds {kind}, expected texts, images or sounds")


def batch_rows(batch: Any) -> Iterator[Record]:
    """Yield the rows of a batch. Bytes that are not UTF-8 become lone surrogates, which spoil only their own row."""
    for start in range(0, batch.num_rows, _ROWS_PER_PART):
        columns = [_values(column) for column in batch.slice(start, _ROWS_PER_PART).columns]
        for row in zip(*columns, strict=True):
            yield dict(zip(batch.schema.names, row, strict=True))


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        if pa.types.is_struct(column.type):
            return _values_one_by_one(column)
        texts = column.cast(pa.large_binary()).to_pylist()
        return [text if text is None else text.decode(errors="surrogateescape") for text in texts]
    except (ValueError, OverflowError):
        return _values_one_by_one(column)


def _values_one_by_one(column: Any) -> list[Any]:
    """Return the values of a column, of which Python's types cannot hold some. They may be inside structs or lists."""
    import pyarrow as pa

    if pa.types.is_struct(column.type):
        rows = zip(*map(_values, column.flatten()), strict=True)
        names = [field.name for field in column.type]
        return [
            dict(zip(names, row, strict=True)) if scalar.is_valid else None
            for scalar, row in zip(column, rows, strict=True)
        ]
    if pa.types.is_map(column.type):
        return [_entries(scalar.values) if scalar.is_valid else None for scalar in column]
    if any(is_list(column.type) for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        return [_values(scalar.values) if scalar.is_valid else None for scalar in column]
    return [_value(scalar, text) for scalar, text in zip(column, _texts(column), strict=True)]


def _entries(entries: Any) -> list[tuple[Any, ...]]:
    """Return the pairs of a map, as pyarrow does."""
    return list(zip(*map(_values, entries.flatten()), strict=True))


def _value(scalar: Any, text: str | None) -> Any:
    """Return a time or a date; its text if Python's types cannot hold it, as for nanoseconds.

    If Arrow's types cannot write it either, as the year 300,000, the text is the number of its units.
    """
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        if text is not None and not text.startswith("<value out of range"):
            return text
        return str(scalar.value)


def _texts(column: Any) -> list[str | None]:
    """Return the values as texts; None for those of types for which Arrow has no text, such as durations."""
    import pyarrow as pa

    try:
        return list(column.cast(pa.string()).to_pylist())
    except pa.ArrowException:
        return [None] * len(column)

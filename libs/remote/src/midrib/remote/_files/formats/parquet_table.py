"""Tables in Parquet."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from midrib.remote._files.formats.columns import InputColumns, Record
from midrib.remote._files.storage import LocalFile
from midrib.wire import InvalidInputError


def check_parquet(name: str) -> None:
    """Raise InvalidInputError, with the install line, if a Parquet file cannot be read or written here."""
    if importlib.util.find_spec("pyarrow") is None:
        raise InvalidInputError(f"{name} needs pyarrow: pip install 'midrib-remote[parquet]'")


def read_parquet(file: LocalFile, columns: InputColumns) -> Iterator[Record]:
    """Yield the rows, reading the needed columns only.

    Raises InvalidInputError if pyarrow or a column is missing, or for a file that cannot be read as Parquet.
    """
    check_parquet(file.name)
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped] # it has no types

    try:
        with parquet.ParquetFile(file.path) as table:
            needed = columns.needed(table.schema_arrow.names, file.name)
            for batch in table.iter_batches(columns=needed):
                yield from _rows(batch)
    except (ArrowException, OSError) as error:
        raise InvalidInputError(f"{file.name} cannot be read as Parquet: {error}") from error


def _rows(batch: Any) -> Iterator[Record]:
    """Yield the rows of a batch. Bytes that are not UTF-8 become lone surrogates, which spoil only their own row."""
    columns = [_values(column) for column in batch.columns]
    for row in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        texts = column.cast(pa.large_binary()).to_pylist()
        return [text if text is None else text.decode(errors="surrogateescape") for text in texts]

"""Tables in Parquet."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from midrib.remote._files.formats.columns import Columns, Record
from midrib.remote._files.storage import LocalFile
from midrib.wire import InvalidInputError


def check_parquet(name: str) -> None:
    """Raise InvalidInputError, with the install line, if a Parquet file cannot be read or written here."""
    if importlib.util.find_spec("pyarrow") is None:
        raise InvalidInputError(f"{name} needs pyarrow: pip install 'midrib-remote[parquet]'")


def read_parquet(file: LocalFile, columns: Columns) -> Iterator[Record]:
    """Yield the rows, reading the needed columns only.

    Raises InvalidInputError if pyarrow or a column is missing, or for a file that cannot be read as Parquet.
    """
    check_parquet(file.name)
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped] # it has no types

    try:
        with parquet.ParquetFile(file.path) as table:
            needed = columns.needed(table.schema_arrow.names, file.name)
            for batch in table.iter_batches(columns=needed):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise InvalidInputError(f"{file.name} cannot be read as Parquet: {error}") from error

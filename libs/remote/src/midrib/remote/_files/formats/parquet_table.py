"""Tables in Parquet."""

from __future__ import annotations

from collections.abc import Iterator

from midrib.remote._files.formats.arrow_rows import batch_rows, refuse_times, require_pyarrow
from midrib.remote._files.formats.columns import InputColumns, Record
from midrib.remote._files.storage import LocalFile
from midrib.wire import InvalidInputError


def read_parquet(file: LocalFile, columns: InputColumns) -> Iterator[Record]:
    """Yield the rows, reading the needed columns only.

    Raises InvalidInputError if pyarrow or a column is missing, or for a file that cannot be read as Parquet.
    """
    require_pyarrow(file.name)
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped] # it has no types

    try:
        with parquet.ParquetFile(file.path) as table:
            needed = columns.needed(table.schema_arrow.names, file.name)
            refuse_times(table.schema_arrow, columns.value, file.name)
            for batch in table.iter_batches(columns=needed):
                yield from batch_rows(batch)
    except (ArrowException, OSError) as error:
        raise InvalidInputError(f"{file.name} cannot be read as Parquet: {error}") from error

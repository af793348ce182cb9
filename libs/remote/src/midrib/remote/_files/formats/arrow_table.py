"""Tables in Arrow's own formats: files (also called Feather) and streams, such as Hugging Face's data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from midrib.remote._files.formats.arrow_rows import batch_rows, refuse_times, require_pyarrow
from midrib.remote._files.formats.columns import InputColumns, Record
from midrib.remote._files.storage import LocalFile
from midrib.wire import InvalidInputError

_FILE_MARK: Final = b"ARROW1"
_FEATHER_1_MARK: Final = b"FEA1"


def read_arrow(file: LocalFile, columns: InputColumns) -> Iterator[Record]:
    """Yield the rows, reading the needed columns only.

    Raises InvalidInputError if pyarrow or a column is missing, or for a file that cannot be read as Arrow.
    """
    require_pyarrow(file.name)
    from pyarrow import ArrowException, OSFile  # type: ignore[import-untyped] # it has no types

    try:
        with OSFile(str(file.path)) as source:
            _require_version_2(source, file.name)
            schema = _reader(source).schema
            needed = columns.needed(schema.names, file.name)
            refuse_times(schema, columns.value, file.name)
            source.seek(0)
            for batch in _batches(_reader(source, [schema.names.index(name) for name in needed])):
                _require_valid(batch)
                yield from batch_rows(batch)
    except (ArrowException, OSError) as error:
        raise InvalidInputError(f"{file.name} cannot be read as Arrow: {error}") from error


def _require_version_2(source: Any, name: str) -> None:
    """Raise InvalidInputError for Feather of version 1."""
    if source.read(len(_FEATHER_1_MARK)) == _FEATHER_1_MARK:
        raise InvalidInputError(f"{name} is of version 1 of Feather, expected 2: write it again by pyarrow.feather")
    source.seek(0)


def _reader(source: Any, fields: list[int] | None = None) -> Any:
    """Return pyarrow's reader of a file or a stream.  fields: the places of the columns to read; None for all."""
    from pyarrow import ipc

    options = ipc.IpcReadOptions(included_fields=fields)
    is_file = source.read(len(_FILE_MARK)) == _FILE_MARK
    source.seek(0)
    return ipc.open_file(source, options=options) if is_file else ipc.open_stream(source, options=options)


def _batches(reader: Any) -> Iterator[Any]:
    """Yield the batches of either reader; those of a file are known by number."""
    if hasattr(reader, "num_record_batches"):
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        yield from reader


def _require_valid(batch: Any) -> None:
    """Raise ArrowInvalid for a damaged batch, whose offsets would lead out of memory; pyarrow does not look at them.

    Texts are looked at as bytes: one that is not UTF-8 is the error of its row alone.
    """
    for column in batch.columns:
        column.validate()  # before the conversion, which trusts the sizes
        _texts_as_bytes(column).validate(full=True)


def _texts_as_bytes(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, _texts_as_bytes(column.dictionary))
    if pa.types.is_struct(column.type):
        fields = [_texts_as_bytes(column.field(number)) for number in range(column.type.num_fields)]
        return pa.StructArray.from_arrays(fields, [field.name for field in column.type])
    kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    return column.cast(kinds[column.type]) if column.type in kinds else column

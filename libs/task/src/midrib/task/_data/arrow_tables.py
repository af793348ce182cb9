"""Tables in Parquet and in Arrow's own formats, whose columns become Python values when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from midrib.task._data.tables import Table, require_distinct
from midrib.task._features.media import read_bytes

_FILE_MARK = b"ARROW1"
_FEATHER_1_MARK = b"FEA1"


def read_parquet(path: Path) -> Table:
    """Read Parquet.

    Raises ValueError for a damaged file and for two columns of one name, and ImportError, with the install line,
    without pyarrow.
    """
    _require_pyarrow(path)
    from pyarrow import ArrowException, BufferReader, parquet  # type: ignore[import-untyped] # it has no types

    content = read_bytes(path)
    try:
        table = parquet.ParquetFile(BufferReader(content)).read()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}): write it again") from error
    return _table(path, table)


def read_arrow(path: Path) -> Table:
    """Read a file of Arrow (also called Feather) or a stream, such as a shard of a Hugging Face dataset.

    Raises ValueError for a damaged file, Feather of version 1 and two columns of one name, and ImportError, with the
    install line, without pyarrow.
    """
    _require_pyarrow(path)
    from pyarrow import ArrowException, ipc

    content = read_bytes(path)
    if content.startswith(_FEATHER_1_MARK):
        raise ValueError(f"{path} is of version 1 of Feather, expected 2: write it again by pyarrow.feather")
    try:
        reader = ipc.open_file(content) if content.startswith(_FILE_MARK) else ipc.open_stream(content)
        table = reader.read_all()
        table.validate()  # offsets of a damaged file would lead out of memory
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Arrow ({error}): write it again") from error
    return _table(path, table)


def _require_pyarrow(path: Path) -> None:
    """Raise ImportError, with the install line, without pyarrow."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path} needs pyarrow: pip install pyarrow") from error


def _table(path: Path, table: Any) -> Table:
    """Return the columns. Raises ValueError if two have the same name."""
    require_distinct(path, table.column_names)
    places = [f"{path}[{row}]" for row in range(table.num_rows)]
    return Table(str(path), _ArrowColumns(path, table), places, path.parent)


class _ArrowColumns(Mapping[str, Sequence[Any]]):
    """The columns of an Arrow table by name, read on demand: damage in a column that is not used does no harm."""

    def __init__(self, path: Path, table: Any) -> None:
        self._path = path
        self._table = table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return len(self._table.column_names)

    def __contains__(self, name: object) -> bool:
        return name in self._table.column_names

    def __getitem__(self, name: str) -> Sequence[Any]:
        """Return the values of a column.

        Raises KeyError if it does not exist, ValueError if Python's types cannot hold a value.
        """
        if name not in self:
            raise KeyError(name)
        from pyarrow import ArrowException

        column = self._table.column(name)
        try:
            _require_valid(column)
            return list(column.to_pylist())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self._path} holds text that is not valid UTF-8, in column {name!r} ({error}): write it again"
            ) from error
        except (ArrowException, ValueError, OverflowError) as error:
            raise ValueError(f"column {name!r} of {self._path} cannot be read ({error}): write it again") from error


def _require_valid(column: Any) -> None:
    """Raise ArrowInvalid for damaged offsets. Texts are checked as bytes, because invalid UTF-8 has another error."""
    import pyarrow as pa

    texts = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    column.validate()
    (column.cast(texts[column.type]) if column.type in texts else column).validate(full=True)

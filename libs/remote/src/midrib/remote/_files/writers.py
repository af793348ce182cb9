"""The output: one file of features and ids, with the backbone and its revision."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from midrib.remote._files.formats.arrow_rows import require_pyarrow
from midrib.remote._files.kept_values import plain_json
from midrib.remote._files.storage import Output
from midrib.remote._files.whole_files import write_whole
from midrib.wire import Array, InvalidInputError


@dataclass(frozen=True)
class OutputRows:
    """Rows of the output.  features: [rows, num_features].  kept: the values of the kept columns, by column."""

    ids: list[str]
    features: Array
    kept: Mapping[str, list[Any]]


_BLOCK_ROWS: Final = 256
_GROUP_BYTES: Final = 16 * 2**20
_MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library

# Each call reads the rows again, from disk.
RowsReader: TypeAlias = Callable[[], Iterator[OutputRows]]


def check_output(output: Output) -> None:
    """Raise InvalidInputError for an output of an unknown kind, a folder, or one that cannot be written here."""
    path, name = output.path, output.url or str(output.path)
    if path.suffix not in _WRITERS:
        raise InvalidInputError(f"output {name} is of an unknown kind: end it in {', '.join(_WRITERS)}")
    if path.is_dir():
        raise InvalidInputError(f"output {name} is a folder: name a file in it")
    if path.suffix == ".parquet":
        require_pyarrow(f"output {name}")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InvalidInputError(f"cannot write output {name}: {folder} is not a folder that you may write to")


def write_output(path: Path, read: RowsReader, metadata: dict[str, str]) -> None:
    """Write the output of one or more rows. Raises OSError, with the remedy, if it cannot be written."""
    _WRITERS[path.suffix](path, read, metadata)


def _write_parquet(path: Path, read: RowsReader, metadata: dict[str, str]) -> None:
    import pyarrow as pa  # type: ignore[import-untyped] # it has no types
    from pyarrow import parquet

    kept = _kept_types(read)

    def table_of(rows: OutputRows) -> Any:
        flat = pa.array(np.ascontiguousarray(rows.features).reshape(-1))
        columns = {
            "id": pa.array(rows.ids, pa.string()),
            **{name: _kept_array(rows.kept[name], kind) for name, kind in kept.items()},
            "embedding": pa.FixedSizeListArray.from_arrays(flat, rows.features.shape[1]),
        }
        return pa.table(columns, metadata={f"midrib.{key}": value for key, value in metadata.items()})

    def write(unfinished: Path) -> None:
        writer: Any = None
        for group in _row_groups(map(table_of, read())):
            writer = writer or parquet.ParquetWriter(unfinished, group.schema)
            writer.write_table(group)
        writer.close()

    write_whole(path, write)


def _row_groups(tables: Iterator[Any]) -> Iterator[Any]:
    """Yield the rows in groups of about _GROUP_BYTES, which depend on the rows alone.

    The size of a chunk depends on time: the file of a run that was killed and resumed has the bytes of any other.
    """
    import pyarrow as pa

    group: list[Any] = []
    size = 0
    for block in _blocks(tables):
        group.append(block)
        size += block.nbytes
        if size >= _GROUP_BYTES:
            yield pa.concat_tables(group).combine_chunks()
            group, size = [], 0
    if group:
        yield pa.concat_tables(group).combine_chunks()


def _blocks(tables: Iterator[Any]) -> Iterator[Any]:
    """Yield the rows in blocks of _BLOCK_ROWS; the last one may have fewer."""
    import pyarrow as pa

    waiting: Any = None
    for table in tables:
        waiting = table if waiting is None else pa.concat_tables([waiting, table])
        while len(waiting) >= _BLOCK_ROWS:
            yield waiting.slice(0, _BLOCK_ROWS).combine_chunks()
            waiting = waiting.slice(_BLOCK_ROWS)
    if len(waiting):
        yield waiting.combine_chunks()


def _kept_types(read: RowsReader) -> dict[str, Any]:
    """Return the Arrow type of each kept column: one that holds all its values, or None for JSON text."""
    import pyarrow as pa

    types: dict[str, Any] = {}
    for rows in read():
        for name, values in rows.kept.items():
            try:
                schemas = [pa.schema([("value", kind)]) for kind in (types.get(name, pa.null()), _arrow_type(values))]
                types[name] = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
            except (pa.ArrowException, OverflowError, TypeError, ValueError):
                types[name] = None
    return types


def _arrow_type(values: list[Any]) -> Any:
    import pyarrow as pa

    return pa.array(values).type


def _kept_array(values: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    if kind is None:  # values of different types
        return pa.array([None if value is None else _as_text(value) for value in values], pa.string())
    return pa.array(values, kind)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else plain_json(value)


def _write_npy(path: Path, read: RowsReader, metadata: dict[str, str]) -> None:
    """Write the features; a JSON file beside them has the ids, the kept columns and the revision."""
    ids, features, kept = _joined(read)
    beside = path.with_name(path.name + ".json")

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.save(file, features)
        beside.unlink(missing_ok=True)  # the ids never name the rows of another array, also after a kill

    text = plain_json({**metadata, "ids": ids, **({"kept": kept} if kept else {})})
    write_whole(path, write)
    write_whole(beside, lambda unfinished: unfinished.write_text(text))


def _write_safetensors(path: Path, read: RowsReader, metadata: dict[str, str]) -> None:
    """Write the features, with all else in the header.

    The library's own writer puts the header's texts in another order each time.
    Source of the layout: the README of github.com/huggingface/safetensors, section Format.
    Raises InvalidInputError for more ids and kept values than the library reads.
    """
    ids, features, kept = _joined(read)
    texts = {**metadata, "ids": json.dumps(ids), **({"kept": plain_json(kept)} if kept else {})}
    embedding = {
        "dtype": f"F{8 * features.itemsize}",
        "shape": list(features.shape),
        "data_offsets": [0, features.nbytes],
    }
    header = json.dumps({"__metadata__": texts, "embedding": embedding}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _MAX_HEADER_BYTES:
        raise InvalidInputError(
            f"output {path} would have {len(header):,} bytes of ids and kept values, and safetensors holds at most "
            f"{_MAX_HEADER_BYTES:,}: rename {path.name}.parts to {path.stem}.parquet.parts, and run again with --out "
            f"{path.stem}.parquet"
        )

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.write(np.ascontiguousarray(features).data)

    write_whole(path, write)


def _joined(read: RowsReader) -> tuple[list[str], Array, dict[str, list[Any]]]:
    parts = list(read())
    kept = {name: [value for rows in parts for value in rows.kept[name]] for name in parts[0].kept}
    return [item_id for rows in parts for item_id in rows.ids], np.concatenate([rows.features for rows in parts]), kept


_WRITERS: Final[dict[str, Callable[[Path, RowsReader, dict[str, str]], None]]] = {
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
}

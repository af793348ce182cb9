"""Read the vectors and columns of an embedding file. Runs in a process for one file."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

MAX_ROWS = 100_000
MAX_COLUMNS = 16
_MAX_UNPACKED_BYTES = 2**30
_VECTORS = "embedding"
# The squares of larger numbers, and sums of them, may be infinite in float32.
_LARGEST = 1e12


class FileError(ValueError):
    """The file cannot be drawn, for a reason that its sender can mend."""


@dataclass(frozen=True)
class EmbeddingTable:
    """The content of an embedding file.  vectors: float32 [rows, width].  columns: the values of each, by name."""

    vectors: npt.NDArray[np.float32]
    columns: Mapping[str, Sequence[Any]]


def read_table(kind: str, data: bytes) -> EmbeddingTable:
    """Return the content of a file.  kind: the ending of its name, one of KINDS.

    Raises FileError for a file that cannot be read, or that has too many rows.
    """
    if kind not in KINDS:
        raise FileError(f"the file is of kind {kind[:20]!r}, expected one of {', '.join(KINDS)}")
    try:
        vectors, columns = _READERS[kind](data)
    except (FileError, MemoryError):
        raise
    except ImportError as error:
        raise FileError(f"this server cannot read .{kind} files ({error}): send .npy, or install it there") from error
    except Exception as error:  # each format has errors of its library
        raise FileError(f"the file cannot be read as .{kind} ({type(error).__name__}: {str(error)[:200]})") from error
    return EmbeddingTable(_checked(np.asarray(vectors)), _first_columns(columns))


def _first_columns(columns: Any) -> dict[str, Sequence[Any]]:
    """Return at most MAX_COLUMNS columns. Raises FileError if they are not lists by name, as metadata may be."""
    if not isinstance(columns, dict) or not all(isinstance(values, list) for values in columns.values()):
        raise FileError(
            f"the columns beside the vectors are a {type(columns).__name__}, expected lists by name, a value per row"
        )
    return {str(name): values for name, values in list(columns.items())[:MAX_COLUMNS]}


def _checked(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the vectors [rows, width]. Raises FileError for vectors that cannot be drawn."""
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind not in "fiu":
        raise FileError(
            f"the vectors are {vectors.dtype} {list(vectors.shape)}, expected numbers [rows, width] of one row or more"
        )
    if len(vectors) > MAX_ROWS:
        raise FileError(f"the file has {len(vectors)} rows, at most {MAX_ROWS} are drawn: send a sample")
    vectors = vectors.astype(np.float32)
    if not (usable := (np.abs(vectors) <= _LARGEST).all(axis=1)).all():
        raise FileError(
            f"row {int(np.argmin(usable))} has NaN, infinite numbers or numbers above {_LARGEST:g}: leave it out"
        )
    return vectors


def _npy(data: bytes) -> tuple[Any, dict[str, Any]]:
    return np.load(io.BytesIO(data), allow_pickle=False), {}


def _safetensors(data: bytes) -> tuple[Any, dict[str, Any]]:
    """Return vectors [rows, width] and columns of a safetensors file. Raises FileError if it has no vectors."""
    from safetensors.numpy import load

    tensors = load(data)
    if _VECTORS not in tensors:
        raise FileError(f"the file has the tensors {sorted(tensors)[:10]}, expected one that is named {_VECTORS!r}")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__", {})
    columns = json.loads(metadata.get("kept", "{}"))
    return tensors[_VECTORS], {**({"id": json.loads(metadata["ids"])} if "ids" in metadata else {}), **columns}


def _jsonl(data: bytes) -> tuple[Any, dict[str, Any]]:
    """Return vectors [rows, width] and columns of a file of JSON lines. Raises FileError for another layout."""
    rows = [json.loads(line) for line in data.splitlines() if line.strip()]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise FileError(
            f"the file has {len(rows)} lines, expected a JSON object in each, with its vector in the field 'embedding'"
        )
    name = next((name for name, value in rows[0].items() if _is_vector(value)), _VECTORS)
    columns = {column: [row.get(column) for row in rows] for column in rows[0] if column != name}
    return np.array([row[name] for row in rows], np.float32), columns


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and isinstance(value[0], int | float)


def _parquet(data: bytes) -> tuple[Any, dict[str, Any]]:
    """Return vectors [rows, width] and columns of a Parquet file. Raises FileError for no vectors, or too many."""
    import pyarrow as pa  # type: ignore[import-untyped] # it has no types
    from pyarrow import parquet

    file = parquet.ParquetFile(io.BytesIO(data))
    groups = [file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups)]
    if file.metadata.num_rows > MAX_ROWS or sum(groups) > _MAX_UNPACKED_BYTES:
        raise FileError(
            f"the file has {file.metadata.num_rows} rows and {sum(groups)} bytes unpacked, at most {MAX_ROWS} rows and "
            f"{_MAX_UNPACKED_BYTES} bytes are read: send a sample"
        )
    fields = {field.name: field.type for field in file.schema_arrow}
    lists = [name for name, kind in fields.items() if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)]
    if not lists:
        raise FileError(f"the file has the columns {list(fields)[:10]}, expected one of lists of numbers")
    name = _VECTORS if _VECTORS in lists else lists[0]
    plain = [column for column, kind in fields.items() if not pa.types.is_nested(kind)][:MAX_COLUMNS]
    table = file.read(columns=[name, *plain])
    flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), -1), {column: table[column].to_pylist() for column in plain}


_READERS: Final[dict[str, Callable[[bytes], tuple[Any, dict[str, Any]]]]] = {
    "parquet": _parquet,
    "npy": _npy,
    "safetensors": _safetensors,
    "jsonl": _jsonl,
}
KINDS = tuple(_READERS)


def plain(value: Any, longest: int) -> str | int | float | None:
    """Return a cell as a value of JSON: a number, or a text of at most `longest` characters."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return str(value)[:longest]

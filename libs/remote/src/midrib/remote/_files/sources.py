"""Files of raw media, one item after the other, always in the same order."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TextIO, TypeAlias

import numpy as np

from midrib.wire import InvalidInputError

SourceKind: TypeAlias = Literal["images", "texts", "tensor"]
_IMAGES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_TEXTS: Final = frozenset({".txt", ".jsonl", ".csv", ".parquet"})
_KNOWN: Final = ", ".join(sorted([*_IMAGES, *_TEXTS, ".npy"]))


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One row to embed. id: the file's path, with ":row" where a file has many, or the row's own id column.

    error: why there is nothing to embed, where the row cannot be read.
    """

    id: str
    kind: SourceKind
    value: Any
    error: str | None = None


def read_items(inputs: Iterable[str | Path], *, column: str = "text") -> Iterator[SourceItem]:
    """The items of image files, folders of them, texts (.txt a line each; .jsonl, .csv, .parquet by column) and .npy.

    A column of bytes holds encoded images. A row that cannot be read is an item with an error.
    Raises InvalidInputError for a file that is not there, of no known kind, or without the column.
    """
    for path in map(Path, inputs):
        if path.is_dir():
            yield from (_image(file) for file in sorted(path.rglob("*")) if file.suffix.lower() in _IMAGES)
        elif not path.is_file():
            raise InvalidInputError(f"no file or folder at {path}")
        elif path.suffix.lower() in _IMAGES:
            yield _image(path)
        elif path.suffix.lower() == ".npy":
            yield from _array(path)
        elif path.suffix.lower() in _TEXTS:
            yield from _texts(path, column)
        else:
            raise InvalidInputError(f"{path} is of no known kind: use a folder of images, or one of {_KNOWN}")


def _image(path: Path) -> SourceItem:
    return SourceItem(path.as_posix(), "images", path)


def _array(path: Path) -> Iterator[SourceItem]:
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.ndim == 0:
        raise InvalidInputError(f"{path} holds a scalar, expected an array [rows, ...]")
    for number, row in enumerate(rows):
        yield SourceItem(f"{path.as_posix()}:{number}", "tensor", row)


def _texts(path: Path, column: str) -> Iterator[SourceItem]:
    if path.suffix.lower() == ".txt":
        with _open(path) as lines:
            for number, line in enumerate(lines):
                yield _text(f"{path.as_posix()}:{number}", line.rstrip("\n"))
        return
    for number, record in enumerate(_records(path, column)):
        place = f"{path.as_posix()}:{number}"
        if isinstance(record, str):
            yield SourceItem(place, "texts", None, error=record)
        elif number == 0 and column not in record:  # a wrong column rather than a bad row
            raise InvalidInputError(f"{path}, row 0 has no column {column!r}: it has {', '.join(record)}")
        else:
            own = record.get("id")
            yield _text(place if own is None else str(own), record.get(column))


def _text(item_id: str, value: Any) -> SourceItem:
    if isinstance(value, bytes):
        return SourceItem(item_id, "images", value)
    text = None if value is None else str(value)
    error = "there is no value" if text is None else None
    if text is not None and any("\ud800" <= character <= "\udfff" for character in text):
        error = "its bytes are no UTF-8"
    return SourceItem(item_id, "texts", text, error)


def _records(path: Path, column: str) -> Iterator[dict[str, Any] | str]:
    """The rows of a table; the error instead, for one that cannot be read."""
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet  # type: ignore[import-untyped] # it has no types

        file = parquet.ParquetFile(path)
        wanted = [name for name in ("id", column) if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=wanted if column in wanted else None):
            yield from batch.to_pylist()
        return
    with _open(path) as lines:
        if path.suffix.lower() == ".csv":
            yield from csv.DictReader(lines)
        else:
            yield from (_parsed(line) for line in lines if line.strip())


def _parsed(line: str) -> dict[str, Any] | str:
    try:
        record = json.loads(line)
    except ValueError as error:
        return f"it is no JSON: {error}"
    return record if isinstance(record, dict) else f"it is a JSON {type(record).__name__}, expected an object"


def _open(path: Path) -> TextIO:
    """A text file; bytes that are no UTF-8 come as surrogates, which spoil their own row only."""
    return path.open(encoding="utf-8", errors="surrogateescape", newline="" if path.suffix.lower() == ".csv" else None)

"""Files of raw media, one item after the other, always in the same order."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from midrib.wire import InvalidInputError

SourceKind: TypeAlias = Literal["images", "texts", "tensor"]
_IMAGES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_TEXTS: Final = frozenset({".txt", ".jsonl", ".csv", ".parquet"})
_KNOWN: Final = ", ".join(sorted([*_IMAGES, *_TEXTS, ".npy"]))


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One row to embed. id: the file's path, with ":row" where a file has many, or the row's own id column."""

    id: str
    kind: SourceKind
    value: Any


def read_items(inputs: Iterable[str | Path], *, column: str = "text") -> Iterator[SourceItem]:
    """The items of image files, folders of them, texts (.txt a line each; .jsonl, .csv, .parquet by column) and .npy.

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
    for number, row in enumerate(rows):
        yield SourceItem(f"{path.as_posix()}:{number}", "tensor", row)


def _texts(path: Path, column: str) -> Iterator[SourceItem]:
    if path.suffix.lower() == ".txt":
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                yield SourceItem(f"{path.as_posix()}:{number}", "texts", line.rstrip("\n"))
        return
    for number, record in enumerate(_records(path)):
        if column not in record:
            raise InvalidInputError(f"{path}, row {number} has no column {column!r}: it has {', '.join(record)}")
        own = record.get("id")
        item_id = f"{path.as_posix()}:{number}" if own is None else str(own)
        yield SourceItem(item_id, "texts", str(record[column]))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet  # type: ignore[import-untyped]

        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".csv":
            yield from csv.DictReader(file)
        else:
            yield from (json.loads(line) for line in file if line.strip())

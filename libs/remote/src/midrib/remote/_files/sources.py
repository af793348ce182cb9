"""Files of raw media as items, one after the other, always in the same order."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from midrib.remote._files.encodings import is_utf8, open_text, printable
from midrib.remote._files.tables import TABLES, check_column, read_table
from midrib.wire import InvalidInputError

SourceKind: TypeAlias = Literal["images", "texts", "tensor"]
_IMAGES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_KNOWN: Final = ", ".join(sorted([*_IMAGES, *TABLES, ".txt", ".npy"]))
_APPLE_DOUBLE: Final = "._"  # the metadata that macOS writes beside each file on other file systems


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One row to embed.

    id: the file's path, with ":row" if the file has several rows, or the value of the row's id column.
    error: why the row cannot be embedded; None for a row that can be tried.
    """

    id: str
    kind: SourceKind
    value: Any
    error: str | None = None


def read_items(inputs: Iterable[str | Path], *, column: str = "text", id_column: str = "id") -> Iterator[SourceItem]:
    """Yield the items of images, folders of images, .txt (one item per line), tables (by column) and .npy files.

    A column of bytes, or of {bytes, path} as Hugging Face datasets have it, holds encoded images. A row that cannot be
    read is an item with an error.
    Raises InvalidInputError for a file that does not exist, is of an unknown kind, or lacks the column.
    """
    for path in map(Path, inputs):
        suffix = path.suffix.lower()
        if path.is_dir():
            yield from (_image(file) for file in _images(path))
        elif not path.is_file():
            raise InvalidInputError(f"no file or folder at {path}: check the path")
        elif suffix in _IMAGES:
            yield _image(path)
        elif suffix == ".npy":
            yield from _array(path)
        elif suffix == ".txt" or suffix in TABLES:
            yield from _decoded(path, _lines(path) if suffix == ".txt" else _rows(path, column, id_column))
        else:
            raise InvalidInputError(f"{path} is of an unknown kind: use a folder of images, or one of {_KNOWN}")


def _image(path: Path) -> SourceItem:
    return SourceItem(printable(path.as_posix()), "images", path)


def _images(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted; linked folders are followed, each of them once."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        paths = (Path(place, file) for file in files if not file.startswith(_APPLE_DOUBLE))
        found += [path for path in paths if path.suffix.lower() in _IMAGES]
    return sorted(found)


def _array(path: Path) -> Iterator[SourceItem]:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read as .npy: {error}") from error
    if rows.ndim < 2:
        raise InvalidInputError(f"{path} has shape {list(rows.shape)}, expected [rows, ...]: reshape it")
    for number, row in enumerate(rows):
        yield SourceItem(f"{printable(path.as_posix())}:{number}", "tensor", row)


def _decoded(path: Path, items: Iterator[SourceItem]) -> Iterator[SourceItem]:
    try:
        yield from items
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not valid {error.encoding}: save it with encoding UTF-8") from error


def _lines(path: Path) -> Iterator[SourceItem]:
    with open_text(path) as lines:
        for number, line in enumerate(lines):
            yield _value(f"{path.as_posix()}:{number}", line.rstrip("\n"))


def _rows(path: Path, column: str, id_column: str) -> Iterator[SourceItem]:
    for number, record in enumerate(read_table(path, column, id_column)):
        place = f"{path.as_posix()}:{number}"
        if isinstance(record, str):
            yield SourceItem(printable(place), "texts", None, error=record)
        else:
            if number == 0:  # a wrong column rather than a bad row
                check_column(path, column, record)
            row_id = record.get(id_column)
            yield _value(place if row_id is None else str(row_id), record.get(column))


def _value(item_id: str, value: Any) -> SourceItem:
    item_id = printable(item_id)
    if isinstance(value, dict) and ("bytes" in value or "path" in value):  # Hugging Face's Image column
        value = value.get("bytes") or Path(value.get("path") or "")
    if isinstance(value, bytes | Path):
        return SourceItem(item_id, "images", value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return SourceItem(item_id, "texts", None, "the row has no value in this column")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return SourceItem(item_id, "texts", None, f"the value is a {type(value).__name__}, expected a text")
    text = str(value)
    return SourceItem(item_id, "texts", text, None if is_utf8(text) else "the text is not valid UTF-8")

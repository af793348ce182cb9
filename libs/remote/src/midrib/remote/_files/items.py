"""Items of the input files: an id and a value to embed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from midrib.remote._files.formats.audio_file import AUDIO_SUFFIXES, decode_clip, is_audio
from midrib.remote._files.formats.columns import InputColumns, Record
from midrib.remote._files.formats.encodings import is_utf8, printable
from midrib.remote._files.storage import InputFile, LocalFile, RemoteFile
from midrib.wire import InvalidInputError

SourceKind: TypeAlias = Literal["images", "texts", "audio", "tensor"]
_NOT_UTF8: Final = "the text is not valid UTF-8: save its file with encoding UTF-8"


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One row to embed.

    id: the file's path or URL, with ":row" if the file has several rows, or the value of the row's id column.
    value: a text, an array, encoded bytes, or a file.
    error: why the row cannot be embedded; None for a row that can be tried.
    kept: the values of the columns that are copied to the output.
    """

    id: str
    kind: SourceKind
    value: Any
    error: str | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """Return the value as a ValueEmbedder takes it: bytes or a path for an image, AudioSamples for a sound.

        Raises InvalidInputError for sound that cannot be decoded and for a path that is not a file, OSError or
        UnavailableError for a file that cannot be read.
        """
        if isinstance(self.value, RemoteFile):
            encoded = self.value.read_bytes()
            return decode_clip(encoded) if self.kind == "audio" else encoded
        if isinstance(self.value, LocalFile) and not self.value.path.is_file():  # to read a pipe would wait for ever
            raise InvalidInputError(f"no file at {self.value.name}: check the path")
        if self.kind == "audio":
            return decode_clip(self.value if isinstance(self.value, bytes) else self.value.path.read_bytes())
        return self.value.path if isinstance(self.value, LocalFile) else self.value


def file_item(file: InputFile) -> SourceItem:
    """Return the item of an image or a sound in a file."""
    return SourceItem(printable(file.name), "audio" if file.suffix in AUDIO_SUFFIXES else "images", file)


def row_item(location: str, record: Record, columns: InputColumns) -> SourceItem:
    """Return the item of a table's row.  location: the id of a row without an id column."""
    item = value_item(_row_id(record.get(columns.id), location), record.get(columns.value))
    kept = {name: _printable_value(record.get(name)) for name in columns.kept}
    return SourceItem(item.id, item.kind, item.value, item.error, kept)


def value_item(item_id: str, value: Any) -> SourceItem:
    """Return the item of a value: text or a number, encoded bytes, or Hugging Face's {bytes, path}."""
    item_id = printable(item_id)
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        path = value.get("path")
        file = LocalFile(Path(path), Path(path).as_posix()) if isinstance(path, str) and path else None
        value = value.get("bytes") or file
    if isinstance(value, LocalFile):
        return SourceItem(item_id, file_item(value).kind, value)
    if isinstance(value, bytes):
        return SourceItem(item_id, "audio" if is_audio(value) else "images", value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return SourceItem(item_id, "texts", None, "the row has no value in this column")
    if isinstance(value, float) and math.isinf(value):
        return SourceItem(item_id, "texts", None, "the value is infinite, expected a text or a finite number")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return SourceItem(item_id, "texts", None, f"the value is a {type(value).__name__}, expected a text")
    text = str(value)
    return SourceItem(item_id, "texts", text, None if is_utf8(text) else _NOT_UTF8)


def _printable_value(value: Any) -> Any:
    """Return the value with all its texts printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | tuple):
        return [_printable_value(inner) for inner in value]
    if isinstance(value, dict):
        return {printable(str(key)): _printable_value(inner) for key, inner in value.items()}
    return value


def _row_id(value: Any, location: str) -> str:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return location
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)

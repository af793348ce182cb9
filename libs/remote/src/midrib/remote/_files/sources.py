"""Input files as items, one after the other, always in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from midrib.remote._files.formats.arrow_table import read_arrow
from midrib.remote._files.formats.audio_file import AUDIO_SUFFIXES, check_audio
from midrib.remote._files.formats.columns import InputColumns, ReadRow
from midrib.remote._files.formats.csv_table import read_csv
from midrib.remote._files.formats.encodings import printable, read_lines
from midrib.remote._files.formats.foreign import COMPRESSED_SUFFIXES, refuse_foreign
from midrib.remote._files.formats.jsonl_table import read_jsonl
from midrib.remote._files.formats.npy_array import read_npy
from midrib.remote._files.formats.parquet_table import read_parquet
from midrib.remote._files.items import SourceItem, file_item, row_item, value_item
from midrib.remote._files.storage import Downloads, InputFile, LocalFile, find_files
from midrib.wire import InvalidInputError

_IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".heif"}
)
MEDIA_SUFFIXES: Final = _IMAGE_SUFFIXES | AUDIO_SUFFIXES
_TABLES: Final = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
    **dict.fromkeys((".arrow", ".arrows", ".feather", ".ipc"), read_arrow),
}
_KNOWN: Final = ", ".join(sorted([*MEDIA_SUFFIXES, *_TABLES, ".txt", ".npy"]))


class Sources:
    """The inputs of one run.

    inputs: folders of images or sounds, images, sounds, .txt (one item per line), tables, .npy files; paths or URLs.
    downloads: keeps the tables behind URLs on this machine.
    """

    def __init__(self, inputs: Sequence[str | Path], columns: InputColumns, downloads: Downloads) -> None:
        self._inputs = inputs
        self._columns = columns
        self._downloads = downloads
        self._stamps: dict[str, str] = {}
        self._audio_checked = False

    def items(self) -> Iterator[SourceItem]:
        """Yield the items. A row that cannot be read is an item with an error.

        A column of bytes, or of {bytes, path} as Hugging Face's data sets have it, holds encoded images or sounds.
        Raises InvalidInputError for a file that does not exist, is of an unknown kind, lacks a column, or changed
        since an earlier call.
        """
        for location in self._inputs:
            files = find_files(location, MEDIA_SUFFIXES)
            if isinstance(files, list):
                _require_media(location, files)
                yield from self._media(files)
            elif files.suffix in MEDIA_SUFFIXES:
                yield from self._media([files])
            else:
                yield from self._rows(files)
                self._check_unchanged(files)

    def _media(self, files: list[InputFile]) -> Iterator[SourceItem]:
        """Yield the media of a folder or file. Raises InvalidInputError if columns are to be kept."""
        for file in files:
            if self._columns.kept:
                raise InvalidInputError(f"{file.name} has no columns to keep: keep columns of tables only")
            if file.suffix in AUDIO_SUFFIXES:
                check_audio(file.name)
            yield file_item(file)

    def _rows(self, source: InputFile) -> Iterator[SourceItem]:
        """Yield the rows of a source. Raises InvalidInputError for an unknown kind of file, or a wrong encoding."""
        suffix = source.suffix
        if suffix in COMPRESSED_SUFFIXES:
            raise InvalidInputError(f"{source.name} is compressed: unpack it first")
        if suffix not in _TABLES and suffix not in (".txt", ".npy"):
            raise InvalidInputError(f"{source.name} is of an unknown kind: use a folder of images, or one of {_KNOWN}")
        if suffix not in _TABLES and self._columns.kept:
            raise InvalidInputError(f"{source.name} has no columns to keep: keep columns of tables only")
        self._stamps.setdefault(source.name, source.stamp())
        file = self._downloads.local(source)
        try:
            refuse_foreign(file)
            yield from self._arrays(file) if suffix == ".npy" else self._texts(file)
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"{file.name} is not valid {error.encoding}: save it with encoding UTF-8"
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise InvalidInputError(f"{file.name} cannot be read ({reason}): check the file and your rights") from error

    def _arrays(self, file: LocalFile) -> Iterator[SourceItem]:
        name = printable(file.name)
        for number, row in enumerate(read_npy(file)):
            yield SourceItem(f"{name}:{number}", "tensor", row)

    def _texts(self, file: LocalFile) -> Iterator[SourceItem]:
        rows: Iterator[ReadRow]
        if file.suffix == ".txt":
            for number, line in enumerate(read_lines(file)):
                yield value_item(f"{file.name}:{number}", line)
            return
        rows = _TABLES[file.suffix](file, self._columns)
        for number, row in enumerate(rows):
            location = f"{file.name}:{number}"
            if isinstance(row, str):
                yield SourceItem(printable(location), "texts", None, error=row)
            else:
                item = row_item(location, row, self._columns)
                if item.kind == "audio" and not self._audio_checked:
                    check_audio(file.name)
                    self._audio_checked = True
                yield item

    def _check_unchanged(self, source: InputFile) -> None:
        """Raise InvalidInputError if the file changed while it was read."""
        if source.stamp() != self._stamps[source.name]:
            raise InvalidInputError(f"{source.name} changed while it was read: run again once it is complete")


def _require_media(location: str | Path, files: list[InputFile]) -> None:
    """Raise InvalidInputError for a folder of tables, whose rows would be left out."""
    tables = [] if files else find_files(location, frozenset(_TABLES))
    if isinstance(tables, list) and tables:
        raise InvalidInputError(
            f"folder {location} holds no images or sounds but {len(tables)} tables, such as {tables[0].name}: "
            "give the tables themselves"
        )

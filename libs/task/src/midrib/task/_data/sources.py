"""ImageData, TextData, AudioData and TabularData, made from folders, files, tables, data sets and arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeAlias, Unpack

from midrib.task._data.arrow_tables import read_arrow, read_parquet
from midrib.task._data.columns import ColumnLike, Columns, samples_of
from midrib.task._data.folders import list_files, read_folder
from midrib.task._data.kinds import CLIPS, IMAGES, ROWS, TEXTS, Kind
from midrib.task._data.module import DataModule, DataOptions
from midrib.task._data.samples import Samples, labelled
from midrib.task._data.tables import Table, from_dataframe, from_hf_dataset, read_csv, read_json

PathLike: TypeAlias = str | Path
# Items and their labels: sequences or arrays.
Labelled: TypeAlias = tuple[Any, Any]
_Reader: TypeAlias = Callable[..., Samples]


class TableOptions(DataOptions, total=False):
    """The options of every data module, and those of a table's columns.

    input: the column with the inputs; for TabularData several, by default all but the labels.
    label: the column with the labels, or for multi-label data several columns of 0 and 1.
    label_separator: divides several labels in one cell, such as "cat|dog".
    Names that are not given are guessed: "label", "target", "image", "text" and the like.
    """

    input: ColumnLike
    label: ColumnLike
    label_separator: str | None


class _TableData(DataModule):
    """Data in tables, data sets and arrays."""

    @classmethod
    def from_csv(
        cls,
        train: PathLike | None = None,
        val: PathLike | None = None,
        test: PathLike | None = None,
        predict: PathLike | None = None,
        **options: Unpack[TableOptions],
    ) -> Self:
        """Read CSV files with a header. Paths in them start from the file's folder."""
        return cls._from_tables(_on_path(read_csv), (train, val, test, predict), options)

    @classmethod
    def from_json(
        cls,
        train: PathLike | None = None,
        val: PathLike | None = None,
        test: PathLike | None = None,
        predict: PathLike | None = None,
        **options: Unpack[TableOptions],
    ) -> Self:
        """Read JSON files: an array of objects, or an object on each line."""
        return cls._from_tables(_on_path(read_json), (train, val, test, predict), options)

    @classmethod
    def from_parquet(
        cls,
        train: PathLike | None = None,
        val: PathLike | None = None,
        test: PathLike | None = None,
        predict: PathLike | None = None,
        **options: Unpack[TableOptions],
    ) -> Self:
        """Read Parquet files, which needs pyarrow."""
        return cls._from_tables(_on_path(read_parquet), (train, val, test, predict), options)

    @classmethod
    def from_arrow(
        cls,
        train: PathLike | None = None,
        val: PathLike | None = None,
        test: PathLike | None = None,
        predict: PathLike | None = None,
        **options: Unpack[TableOptions],
    ) -> Self:
        """Read files or streams of Arrow, also called Feather, which needs pyarrow."""
        return cls._from_tables(_on_path(read_arrow), (train, val, test, predict), options)

    @classmethod
    def from_dataframe(
        cls, train: Any = None, val: Any = None, test: Any = None, predict: Any = None, **options: Unpack[TableOptions]
    ) -> Self:
        """Take data frames of pandas or polars."""
        return cls._from_tables(from_dataframe, (train, val, test, predict), options)

    @classmethod
    def from_hf_dataset(
        cls, train: Any = None, val: Any = None, test: Any = None, predict: Any = None, **options: Unpack[TableOptions]
    ) -> Self:
        """Take splits of a Hugging Face dataset; the names of a ClassLabel become the labels."""
        return cls._from_tables(from_hf_dataset, (train, val, test, predict), options)

    @classmethod
    def from_arrays(
        cls,
        train: Labelled | None = None,
        val: Labelled | None = None,
        test: Labelled | None = None,
        predict: Any = None,
        **options: Unpack[DataOptions],
    ) -> Self:
        """Take (items, labels) in memory: rows of numbers, images, texts or clips; `predict` is items alone."""
        return cls._of(partial(_items, cls.kind), (train, val, test, predict), options)

    @classmethod
    def _from_tables(cls, read: Callable[[Any], Table], stages: tuple[Any, ...], options: TableOptions) -> Self:
        columns = Columns(options.pop("input", None), options.pop("label", None), options.pop("label_separator", None))
        return cls._of(partial(_rows, cls.kind, read, columns), stages, options)

    @classmethod
    def _of(cls, read: _Reader, stages: tuple[Any, ...], options: DataOptions) -> Self:
        named = zip(("train", "val", "test", "predict"), stages, strict=True)
        samples = {stage: read(data, has_labels=stage != "predict") for stage, data in named if data is not None}
        return cls(samples, options)


class TabularData(_TableData):
    """Rows of numbers, for backbones that take a tensor.

    Each constructor takes the data of the stages `train`, `val`, `test` and `predict` in its form, and DataOptions.
    """

    kind = ROWS


class _FileData(_TableData):
    """Data that also lies in files of one item each."""

    @classmethod
    def from_folder(
        cls,
        train: PathLike | None = None,
        val: PathLike | None = None,
        test: PathLike | None = None,
        predict: PathLike | None = None,
        **options: Unpack[DataOptions],
    ) -> Self:
        """Take the files of FOLDER/CLASS/…; of `predict`, all files below the folder."""
        return cls._of(partial(_folder, cls.kind), (train, val, test, predict), options)

    @classmethod
    def from_files(
        cls,
        train: Labelled | None = None,
        val: Labelled | None = None,
        test: Labelled | None = None,
        predict: Sequence[PathLike] | None = None,
        **options: Unpack[DataOptions],
    ) -> Self:
        """Take (paths, labels); `predict` is paths alone."""
        return cls._of(_files, (train, val, test, predict), options)


class ImageData(_FileData):
    """Images, for backbones that take them.

    Each constructor takes the data of the stages `train`, `val`, `test` and `predict` in its form, and DataOptions.
    """

    kind = IMAGES


class TextData(_FileData):
    """Texts, for backbones that take them; a file is one text. See ImageData."""

    kind = TEXTS


class AudioData(_FileData):
    """Clips of sound, for backbones that take them: WAV, and with soundfile FLAC, OGG and MP3. See ImageData."""

    kind = CLIPS


def _on_path(read: Callable[[Path], Table]) -> Callable[[PathLike], Table]:
    return lambda path: read(Path(path))


def _folder(kind: Kind, folder: PathLike, *, has_labels: bool) -> Samples:
    return (read_folder if has_labels else list_files)(Path(folder), kind.suffixes)


def _files(data: Any, *, has_labels: bool) -> Samples:
    paths, labels = data if has_labels else (data, None)
    files = [Path(path) for path in paths]
    return labelled(files, labels, list(map(str, files)))


def _items(kind: Kind, data: Any, *, has_labels: bool) -> Samples:
    items, labels = data if has_labels else (data, None)
    return _sourced(kind, labelled(items, labels, [f"row {row}" for row in range(len(items))]), Path())


def _rows(kind: Kind, read: Callable[[Any], Table], columns: Columns, data: Any, *, has_labels: bool) -> Samples:
    table = read(data)
    return _sourced(kind, samples_of(table, columns, kind.columns, has_labels=has_labels), table.folder)


def _sourced(kind: Kind, samples: Samples, folder: Path) -> Samples:
    """Turn the values of a table into sources; rows for which this fails are left out."""
    sources: list[Any] = []
    reasons: dict[int, str] = {}
    for row, value in enumerate(samples.sources):
        try:
            sources.append(kind.source(value, folder))
        except ValueError as error:
            sources.append(None)
            reasons[row] = str(error)
    return Samples(sources, samples.labels, samples.names, samples.skipped).without(reasons)

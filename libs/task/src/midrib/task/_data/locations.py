"""The data at a path: a folder, a table or a file, for training or to predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from midrib.registry import InputSpec
from midrib.task._data.arrow_tables import read_arrow, read_parquet
from midrib.task._data.columns import Columns, samples_of
from midrib.task._data.folders import list_files
from midrib.task._data.kinds import CLIPS, IMAGES, ROWS, TEXTS, Kind, kind_of
from midrib.task._data.module import DataModule
from midrib.task._data.samples import Samples
from midrib.task._data.sources import AudioData, ImageData, TableOptions, TabularData, TextData
from midrib.task._data.tables import Table, read_csv, read_json
from midrib.task._features.media import refuse_compressed

_READERS: Mapping[str, Callable[[Path], Table]] = {
    **dict.fromkeys((".csv", ".tsv"), read_csv),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), read_json),
    ".parquet": read_parquet,
    **dict.fromkeys((".arrow", ".arrows", ".feather", ".ipc"), read_arrow),
}
_CONSTRUCTORS: Mapping[Callable[[Path], Table], str] = {
    read_csv: "from_csv",
    read_json: "from_json",
    read_parquet: "from_parquet",
    read_arrow: "from_arrow",
}


def items_at(path: str | Path, spec: InputSpec | None, columns: Columns | None = None) -> Samples:
    """Return the items at a path, without labels, for a backbone of this input.

    path: a folder, of which all files of the backbone's kind are taken, in order of their paths; a table; or one file.
    Raises ValueError if nothing there can be used.
    """
    kind, place = kind_of(spec), Path(path)
    if place.is_dir():
        samples = list_files(place, kind.suffixes)
    elif (read := _READERS.get(place.suffix.lower())) is not None:
        table = read(place)
        samples = samples_of(table, columns or Columns(), kind.columns, has_labels=False)
        sources: list[Any] = [kind.source(value, table.folder) for value in samples.sources]
        samples = Samples(sources, samples.labels, samples.names, samples.skipped)
    elif place.is_file():
        refuse_compressed(place)
        samples = Samples([place], [None], [str(place)])
    else:
        raise ValueError(f"no file or folder at {place}: check the path")
    if not len(samples):
        raise ValueError(f"{place} holds no {kind.name}: {len(samples.skipped)} files or rows of other kinds")
    return samples


_MODULES: Mapping[str, type[Any]] = {
    IMAGES.name: ImageData,
    TEXTS.name: TextData,
    CLIPS.name: AudioData,
    ROWS.name: TabularData,
}
_VALIDATION_FOLDERS = ("val", "valid", "validation")


def data_at(train: Path, kind: Kind, *, val: Path | None, test: Path | None, options: TableOptions) -> DataModule:
    """Return the data module of a folder with a folder for each class, or of a table.

    A folder that holds only train/ and val/ or test/ is divided as it says.
    Raises ValueError if the path does not exist, or holds another kind of data.
    """
    if not train.is_dir():
        refuse_compressed(train)
        reader = _READERS.get(train.suffix.lower())
        if reader is None or not train.is_file():
            raise ValueError(
                f"{train} is not a folder with a folder for each class, nor a table ({', '.join(_READERS)}): "
                "check the path"
            )
        construct: Callable[..., DataModule] = getattr(_MODULES[kind.name], _CONSTRUCTORS[reader])
        return construct(train, val, test, **options)
    if kind is ROWS:
        raise ValueError(f"{train} is a folder, and this backbone takes rows of numbers: pass a table")
    divided = _divided(train)
    train, val, test = divided.get("train", train), val or divided.get("val"), test or divided.get("test")
    files: DataModule = _MODULES[kind.name].from_folder(train, val, test, **options)
    return files


def _divided(folder: Path) -> dict[str, Path]:
    """Return the folders of the stages if the folder holds nothing else, otherwise nothing."""
    stages = {"train": "train", "test": "test", **dict.fromkeys(_VALIDATION_FOLDERS, "val")}
    names = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if "train" not in names or len(names) < 2 or not names <= stages.keys():
        return {}
    return {stages[name]: folder / name for name in names}

"""The items to predict that lie in a folder, a table or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from midrib.registry import InputSpec
from midrib.task._data.columns import Columns, samples_of
from midrib.task._data.folders import list_files
from midrib.task._data.kinds import kind_of
from midrib.task._data.samples import Samples
from midrib.task._data.tables import TABLE_SUFFIXES, read_table


def items_at(path: str | Path, spec: InputSpec | None, columns: Columns | None = None) -> Samples:
    """Return the items at a path, without labels, for a backbone of this input.

    path: a folder, of which all files of the backbone's kind are taken, in order of their paths; a table; or one file.
    Raises ValueError if nothing there can be used.
    """
    kind, place = kind_of(spec), Path(path)
    if place.is_dir():
        samples = list_files(place, kind.suffixes)
    elif place.suffix.lower() in TABLE_SUFFIXES:
        table = read_table(place)
        samples = samples_of(table, columns or Columns(), kind.columns, has_labels=False)
        sources: list[Any] = [kind.source(value, table.folder) for value in samples.sources]
        samples = Samples(sources, samples.labels, samples.names, samples.skipped)
    elif place.is_file():
        samples = Samples([place], [None], [str(place)])
    else:
        raise ValueError(f"no file or folder at {place}: check the path")
    if not len(samples):
        raise ValueError(f"{place} holds no {kind.name}: {len(samples.skipped)} files or rows of other kinds")
    return samples

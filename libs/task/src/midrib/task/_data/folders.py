"""Files in folders, a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from midrib.task._data.samples import Samples, Skipped

# macOS writes the metadata of each file beside it under this prefix; such files are not media.
_APPLE_DOUBLE = "._"
_METADATA_FILES = frozenset({"thumbs.db", "desktop.ini"})


def read_folder(folder: Path, suffixes: Collection[str]) -> Samples:
    """Return the files of folder/CLASS/…, labelled with CLASS, in order of their paths.

    suffixes: of the files to take, in lower case.  Hidden files and folders are passed over; linked folders are
    followed, each of them once.  Files of another kind, and files outside the folders of classes, are left out.
    Raises ValueError if the folder does not exist or has no file to take in a folder of a class.
    """
    samples = list_files(folder, suffixes)
    classes = [Path(name).relative_to(folder).parts[0] for name in samples.names]
    loose = {
        row: "it is not in the folder of a class"
        for row, path in enumerate(samples.names)
        if Path(path).parent == folder
    }
    labelled = Samples(samples.sources, classes, samples.names, samples.skipped).without(loose)
    if not len(labelled):
        raise ValueError(
            f"{folder} has no folder for each class with {_kinds(suffixes)} in it: it holds {len(samples)} such files "
            f"at its top and {len(samples.skipped)} of other kinds; expected {folder}/CLASS/FILE"
        )
    return labelled


def list_files(folder: Path, suffixes: Collection[str]) -> Samples:
    """Return all files of these kinds below a folder, without labels, in order of their paths; see read_folder.

    Raises ValueError if the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}: check the path")
    paths = sorted(_files_below(folder))
    chosen = [path for path in paths if path.suffix.lower() in suffixes]
    skipped = tuple(
        Skipped(str(path), f"it is a {path.suffix or 'file without a suffix'}, expected {_kinds(suffixes)}")
        for path in paths
        if path.suffix.lower() not in suffixes
    )
    return Samples(chosen, [None] * len(chosen), list(map(str, chosen)), skipped)


def _files_below(folder: Path) -> list[Path]:
    files: list[Path] = []
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        files += [Path(place, name) for name in names if not _is_metadata(name)]
    return files


def _is_metadata(name: str) -> bool:
    return name.startswith((_APPLE_DOUBLE, ".")) or name.lower() in _METADATA_FILES


def _kinds(suffixes: Collection[str]) -> str:
    return ", ".join(sorted(suffixes))

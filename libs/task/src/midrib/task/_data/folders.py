"""Files in folders, a folder for each class."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from midrib.media import files_below
from midrib.task._data.samples import Samples, Skipped


def read_folder(folder: Path, suffixes: Collection[str]) -> Samples:
    """Return the files of folder/CLASS/…, labelled with CLASS, in order of their paths.

    suffixes: the endings of files to take, in lower case.  See `files_below` for hidden files and links.  Files of
    another kind, and files outside the folders of classes, are left out.
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

    Raises ValueError if the folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}: check the path")
    try:
        paths = files_below(folder)
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}): check its permissions") from error
    chosen = [path for path in paths if path.suffix.lower() in suffixes]
    skipped = tuple(
        Skipped(str(path), f"it is a {path.suffix or 'file without a suffix'}, expected {_kinds(suffixes)}")
        for path in paths
        if path.suffix.lower() not in suffixes
    )
    return Samples(chosen, [None] * len(chosen), list(map(str, chosen)), skipped)


def _kinds(suffixes: Collection[str]) -> str:
    return ", ".join(sorted(suffixes))

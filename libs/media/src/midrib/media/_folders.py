"""List the files of a folder that are data, without what systems and programs write beside them."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePath
from typing import NoReturn

# The folder that macOS writes into archives; those at the top of a volume, which may be unreadable; and the lists of
# previews and settings that Windows writes.
_METADATA_FOLDERS = frozenset({"__macosx", "lost+found", "$recycle.bin", "system volume information"})
_METADATA_FILES = frozenset({"thumbs.db", "desktop.ini"})
# Each of ten folders that all link each other would be listed a million times.
_MAX_LINKS = 5


def files_below(folder: Path) -> list[Path]:
    """Return the regular files below a folder, and links that lead nowhere, sorted by their paths.

    Hidden files and folders, and those that systems write beside data, are left out, as are pipes and sockets. Linked
    folders are followed unless they lead to a folder that they lie in.
    Raises OSError, with its path, for a folder that cannot be read, and for links more than five deep.
    """
    files: list[Path] = []
    above: dict[str, tuple[frozenset[str], int]] = {}
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        chain, links = above.get(os.path.dirname(place), (frozenset(), -1))  # noqa: PTH120 (the names of os.walk)
        real = os.path.realpath(place)
        if real in chain:
            folders.clear()
            continue
        links += Path(place).is_symlink() or not chain
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, f"more than {_MAX_LINKS} linked folders, each inside the one before", place)
        above[place] = (chain | {real}, links)
        folders[:] = [name for name in folders if not is_metadata(name)]
        files += [Path(place, name) for name in names if not is_metadata(name)]
    return sorted(file for file in files if file.is_file() or not file.exists())


def is_metadata(name: str) -> bool:
    """Return whether a file or folder of that name is hidden, or written by a system beside data."""
    lower = name.lower()
    return name.startswith(".") or lower in _METADATA_FOLDERS or lower in _METADATA_FILES


def is_metadata_path(path: PurePath) -> bool:
    """Return whether any part of a relative path is of that kind."""
    return any(map(is_metadata, path.parts))


def _raise(error: OSError) -> NoReturn:
    """Raise the error of a folder that os.walk would leave out: an OSError."""
    raise error

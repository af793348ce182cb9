"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a reader, or the next run, sees all of it or nothing.

    write: is called with the path to write the content to.
    Raises OSError, with the remedy, if the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        write(unfinished)
        os.replace(unfinished, path)  # noqa: PTH105 - the atomic one
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path} ({error.strerror or error}): free some space or fix the folder's permissions, then "
            "run the same command again to resume"
        ) from error

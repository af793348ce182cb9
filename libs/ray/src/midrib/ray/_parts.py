"""The finished files of a job that writes embeddings: a later job skips the rows that they hold."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
from pyarrow import fs, parquet

from midrib.ray._digests import DIGEST
from midrib.wire import Array, InvalidInputError, RevisionMismatchError

# In a file's schema metadata: the digests of its rows.
_DIGESTS: Final = b"midrib.rows"
# Files here do not belong to the output yet. Parquet readers leave folders with such names out.
_UNFINISHED: Final = "_unfinished"


class Recipe:
    """The backbone, revision and options of the files of a folder, which are those of the first file."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._first: Mapping[str, str] | None = None

    def check(self, metadata: Mapping[str, str]) -> None:
        """Take the first metadata, and compare later ones with it.

        metadata: the texts whose keys begin with "midrib.", by which an Embedder describes a table.
        Raises RevisionMismatchError for another backbone or revision, InvalidInputError for other options.
        """
        self._first = first = metadata if self._first is None else self._first
        different = sorted(key for key in first.keys() | metadata.keys() if metadata.get(key) != first.get(key))
        if {"midrib.backbone", "midrib.revision"} & {*different}:
            raise RevisionMismatchError(
                f"{self._location} holds features of {first['midrib.backbone']} with revision "
                f"{first['midrib.revision'][:12]}, got {metadata['midrib.backbone']} with revision "
                f"{metadata['midrib.revision'][:12]}: use the same to resume, or choose another folder"
            )
        if different:
            raise InvalidInputError(
                f"{self._location} was begun with another {', '.join(different)}: use the same to resume, or choose "
                "another folder"
            )


@dataclass(frozen=True)
class Finished:
    """The rows of the files that earlier jobs finished.  digests: [rows], sorted."""

    rows: int
    bad: int
    digests: Array
    recipe: Recipe

    def includes(self, digests: Array) -> Array:
        """Return for each of some digests, [rows], whether its row is finished."""
        if not self.rows:
            return np.zeros(len(digests), np.bool_)
        places = np.minimum(np.searchsorted(self.digests, digests), self.rows - 1)
        finished: Array = self.digests[places] == digests
        return finished


class PartFolder:
    """The folder of an output: `part-….parquet` with embedded rows, `bad/part-….parquet` with the other ones.

    An actor writes a file below `_unfinished`. The job's driver, which gets the result of each batch once even if Ray
    repeats the batch, moves the file to its place. So a file in its place is complete, and holds each row once.

    location: a path that every node sees, or a URL that pyarrow opens, such as s3://.
    Raises InvalidInputError for a URL of an unknown kind.
    """

    def __init__(self, location: str) -> None:
        """Open the storage of a location. Raises InvalidInputError for an unknown kind of URL."""
        self.location = location
        try:
            self._files, self._root = _filesystem(location)
        except (ValueError, pa.ArrowInvalid) as error:
            raise InvalidInputError(
                f"{location} is of an unknown kind ({error}): use a path, s3:// or gs://"
            ) from error

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Create the folder, delete the unfinished files of an earlier job, and keep other jobs of this machine out.

        Raises InvalidInputError if another job writes to the folder. On object stores it cannot be noticed.
        """
        self._files.create_dir(self._root, recursive=True)
        descriptor = _lock(self._root, self.location) if isinstance(self._files, fs.LocalFileSystem) else None
        try:
            self._delete_unfinished()
            yield
            self._delete_unfinished()
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def finished(self) -> Finished:
        """Return the rows of the files that are in their place.

        Raises InvalidInputError for a file that no such job wrote, and the errors of `Recipe.check`.
        """
        digests: list[Array] = []
        counts = {"": 0, "bad": 0}
        recipe = Recipe(self.location)
        for folder in counts:
            for path in self._paths(folder):
                metadata = parquet.read_schema(path, filesystem=self._files).metadata or {}
                if _DIGESTS not in metadata:
                    raise InvalidInputError(f"{path} was not written by write_embeddings: choose an empty folder")
                digests.append(np.frombuffer(metadata.pop(_DIGESTS), DIGEST))
                counts[folder] += len(digests[-1])
                recipe.check({k.decode(): v.decode() for k, v in metadata.items() if k.startswith(b"midrib.")})
        joined = np.sort(np.concatenate(digests)) if digests else np.empty(0, DIGEST)
        return Finished(len(joined), counts["bad"], joined, recipe)

    def write(self, table: pa.Table, digests: Array) -> str:
        """Write rows to an unfinished file and return its name; "" for no rows. digests: [rows]."""
        if not table.num_rows:
            return ""
        name = f"part-{uuid.uuid4().hex}.parquet"
        metadata = {**table.schema.metadata, _DIGESTS: digests.tobytes()}
        self._files.create_dir(f"{self._root}/{_UNFINISHED}", recursive=True)
        parquet.write_table(
            table.replace_schema_metadata(metadata), f"{self._root}/{_UNFINISHED}/{name}", filesystem=self._files
        )
        return name

    def commit(self, name: str, folder: str = "") -> None:
        """Move an unfinished file to its place.  folder: "bad" for rows that could not be embedded."""
        if not name:
            return
        target = f"{self._root}/{folder}".rstrip("/")
        self._files.create_dir(target, recursive=True)
        self._files.move(f"{self._root}/{_UNFINISHED}/{name}", f"{target}/{name}")

    def _paths(self, folder: str) -> list[str]:
        selector = fs.FileSelector(f"{self._root}/{folder}".rstrip("/"), allow_not_found=True)
        return sorted(info.path for info in self._files.get_file_info(selector) if info.path.endswith(".parquet"))

    def _delete_unfinished(self) -> None:
        path = f"{self._root}/{_UNFINISHED}"
        if self._files.get_file_info(path).type != fs.FileType.NotFound:
            self._files.delete_dir(path)


def _filesystem(location: str) -> tuple[fs.FileSystem, str]:
    if "://" in location:
        filesystem, path = fs.FileSystem.from_uri(location)
        return filesystem, path.rstrip("/")
    return fs.LocalFileSystem(), str(Path(location).resolve())


def _lock(folder: str, location: str) -> int:
    """Return a descriptor that locks the folder while it is open.

    Raises InvalidInputError while another job holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InvalidInputError(f"another job writes to {location}: wait for it, or choose another folder") from error
    return descriptor

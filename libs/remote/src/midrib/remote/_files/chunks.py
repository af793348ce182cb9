"""Store the finished chunks of a run on disk: a later run resumes from them, and the output is made of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from midrib.remote._files.kept_values import dump_values, load_values
from midrib.remote._files.storage import Output
from midrib.remote._files.whole_files import write_whole
from midrib.remote._files.writers import OutputRows, write_output
from midrib.wire import Array, InvalidInputError, RevisionMismatchError


@dataclass(frozen=True)
class Chunk:
    """Items that were embedded together.

    ids, features: those of the good items; features is [items, num_features].  kept: the good items' values of the
    columns that are copied to the output, by column.
    bad: (id, error) of the other items.  digest: that of all items, by which a resumed run finds changed inputs.
    """

    ids: list[str]
    features: Array
    bad: list[tuple[str, str]]
    kept: Mapping[str, list[Any]] = field(default_factory=dict)
    digest: str = ""


class ChunkStore:
    """The folder `<out>.parts` with one file per chunk, each written whole or not at all.

    Raises InvalidInputError if another run uses the folder, or if it cannot be created.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.folder = output.path.with_name(output.path.name + ".parts")
        self._recipe_path = self.folder / "recipe.json"
        self._recipe: dict[str, str] = {}
        self._lock = _lock(self.folder, output.path)
        self._count = len(self._files())

    def close(self) -> None:
        """Unlock the folder for other runs; delete it if it holds no chunk."""
        with contextlib.suppress(OSError):
            if not self._count:
                self._recipe_path.unlink(missing_ok=True)
            self.folder.rmdir()
        os.close(self._lock)

    def begin(self, recipe: dict[str, str]) -> None:
        """Begin the run, or resume an earlier one.

        recipe: the options on which the output depends; "backbone" and "revision" become its metadata.
        Raises InvalidInputError if the folder was begun with other options, RevisionMismatchError if it was begun with
        another backbone or revision.
        """
        self._recipe = recipe
        path = self._recipe_path
        if not path.exists():
            write_whole(path, lambda unfinished: unfinished.write_text(json.dumps(recipe)))
            return
        try:
            begun = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise _damaged(path, error) from error
        different = sorted(name for name in begun.keys() | recipe.keys() if begun.get(name) != recipe.get(name))
        if {"backbone", "revision"} & {*different}:
            raise RevisionMismatchError(
                f"{self.folder} holds features of another backbone or revision: serve that one to resume, "
                "or delete the folder to begin again"
            )
        if different:
            raise InvalidInputError(
                f"{self.folder} was begun with another {', '.join(different)}: use the same to resume, "
                "or delete the folder to begin again"
            )

    def add(self, chunk: Chunk) -> None:
        """Store a chunk after the earlier ones. Raises OSError, with the remedy, if it cannot be written."""
        arrays: dict[str, Any] = {
            "ids": np.array(json.dumps(chunk.ids)),  # an array of strings would pad each to the longest
            "features": chunk.features,
            "bad": np.array(json.dumps(chunk.bad)),
            "kept": np.array(dump_values(chunk.kept)),
            "digest": np.array(chunk.digest),
        }

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        write_whole(self.folder / f"{self._count:08d}.npz", write)
        self._count += 1

    def chunks(self) -> Iterator[Chunk]:
        """Yield the stored chunks, in order. Raises InvalidInputError for a damaged file."""
        for file in self._files():
            try:
                with np.load(file, allow_pickle=False) as data:
                    ids, bad = json.loads(str(data["ids"])), list(map(tuple, json.loads(str(data["bad"]))))
                    kept, digest = load_values(str(data["kept"])), str(data["digest"])
                    chunk = Chunk(ids, data["features"], bad, kept, digest)
            except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise _damaged(file, error) from error
            yield chunk

    def finish(self) -> None:
        """Write the output of all chunks, and the list of bad items beside it; then delete the chunks.

        Raises InvalidInputError, after writing the list, if every item is bad; OSError, with the remedy, if the output
        cannot be written.
        """
        bad: list[tuple[str, str]] = []
        good = 0
        for chunk in self.chunks():
            bad += chunk.bad
            good += len(chunk.ids)
        self._write_bad(bad)
        if good:
            metadata = {name: self._recipe[name] for name in ("backbone", "revision")}
            write_output(self.output.path, self._output_rows, metadata)
        self.output.publish()
        self._delete()
        if not good:
            raise InvalidInputError(
                f"all {len(bad)} items were refused, so no output was written. The first, {bad[0][0]}: {bad[0][1]}"
            )

    def _write_bad(self, bad: list[tuple[str, str]]) -> None:
        listing = self.output.path.with_name(self.output.path.name + ".bad.jsonl")
        if not bad:
            listing.unlink(missing_ok=True)  # an earlier run may have left one
            return
        lines = "".join(json.dumps({"id": item_id, "error": error}) + "\n" for item_id, error in bad)
        write_whole(listing, lambda unfinished: unfinished.write_text(lines))

    def _output_rows(self) -> Iterator[OutputRows]:
        return (OutputRows(chunk.ids, chunk.features, chunk.kept) for chunk in self.chunks() if chunk.ids)

    def _delete(self) -> None:
        finished = self.folder.with_name(self.folder.name + ".finished")
        shutil.rmtree(finished, ignore_errors=True)
        os.replace(self.folder, finished)  # noqa: PTH105 - a kill in mid-removal must not leave half of the chunks
        shutil.rmtree(finished)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))


def _lock(folder: Path, out: Path) -> int:
    """Create the folder and lock it for this run; return the descriptor that holds the lock.

    A run that has just ended may have deleted the folder meanwhile: then try again.
    Raises InvalidInputError while another run holds it, or if the folder cannot be written.
    """
    while True:
        try:
            descriptor = _open_folder(folder)
        except OSError as error:
            raise InvalidInputError(f"cannot write output {out} ({error.strerror}): choose another folder") from error
        if descriptor is None:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise InvalidInputError(f"another run writes {out}: wait for it, or choose another output") from error
        if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)


def _open_folder(folder: Path) -> int | None:
    """Create a folder if it does not exist, and return its descriptor; None if it was deleted meanwhile.

    Raises OSError if it cannot be created, as in /proc.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _damaged(file: Path, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"{file} is damaged ({error}): delete {file.parent} to begin again")

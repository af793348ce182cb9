"""The finished chunks of a long run, on disk. A run resumes from them, and the output is made of them."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midrib.wire import Array, InvalidInputError, RevisionMismatchError


@dataclass(frozen=True)
class Chunk:
    """Items that were embedded together.

    ids, features: [items, num_features], of the items that could be embedded.
    bad: (id, error) of the others.  digest: of all items' values, by which a resumed run finds changed inputs.
    """

    ids: list[str]
    features: Array
    bad: list[tuple[str, str]]
    digest: str = ""


class ChunkStore:
    """A folder beside the output with one file per chunk, each written whole or not at all.

    recipe: what the features depend on; "backbone" and "revision" become metadata of the output.

    Raises InvalidInputError if another run has the folder, or if it was begun with other options;
    RevisionMismatchError if it was begun with another backbone or revision.
    """

    def __init__(self, out: Path, recipe: dict[str, str]) -> None:
        check_output(out)
        self.out = out
        self._folder = out.with_name(out.name + ".parts")
        self._recipe = recipe
        self._lock = _lock(self._folder, out)
        try:
            self._count = len(self._files())
            self._check_recipe()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other runs have the folder."""
        os.close(self._lock)

    def _check_recipe(self) -> None:
        path = self._folder / "recipe.json"
        if not path.exists():
            _write_whole(path, lambda unfinished: unfinished.write_text(json.dumps(self._recipe)))
            return
        try:
            begun = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise _damaged(path, error) from error
        different = [name for name in self._recipe if begun.get(name) != self._recipe[name]]
        if {"backbone", "revision"} & {*different}:
            raise RevisionMismatchError(
                f"{self._folder} holds features of another backbone or revision: serve that one to resume, "
                "or delete the folder to begin again"
            )
        if different:
            raise InvalidInputError(
                f"{self._folder} was begun with another {', '.join(different)}: use the same to resume, "
                "or delete the folder to begin again"
            )

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk, after those before it."""
        bad = np.array(json.dumps(chunk.bad))

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(
                    file,
                    ids=np.array(chunk.ids, dtype=np.str_),
                    features=chunk.features,
                    bad=bad,
                    digest=np.array(chunk.digest),
                )

        _write_whole(self._folder / f"{self._count:08d}.npz", write)
        self._count += 1

    def chunks(self) -> Iterator[Chunk]:
        """Yield the kept chunks, in order. Raises InvalidInputError for a damaged file."""
        for file in self._files():
            try:
                with np.load(file, allow_pickle=False) as data:
                    bad = list(map(tuple, json.loads(str(data["bad"]))))
                    chunk = Chunk(data["ids"].tolist(), data["features"], bad, str(data["digest"]))
            except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise _damaged(file, error) from error
            yield chunk

    def finish(self) -> None:
        """Write the output of all chunks, and the list of bad items beside it; then delete the chunks.

        Raises InvalidInputError, and writes only the list, if there is no good item.
        """
        bad: list[tuple[str, str]] = []
        good = 0
        for chunk in self.chunks():
            bad += chunk.bad
            good += len(chunk.ids)
        if bad:
            lines = (json.dumps({"id": item_id, "error": error}) for item_id, error in bad)
            self.out.with_name(self.out.name + ".bad.jsonl").write_text("\n".join(lines) + "\n")
        if bad and not good:
            self._delete()
            raise InvalidInputError(
                f"all {len(bad)} items were refused, so there is no output. The first, {bad[0][0]}: {bad[0][1]}"
            )
        metadata = {name: self._recipe[name] for name in ("backbone", "revision")}
        _write_whole(self.out, lambda path: _WRITERS[self.out.suffix](path, self, metadata))
        self._delete()

    def _delete(self) -> None:
        finished = self._folder.with_name(self._folder.name + ".finished")
        shutil.rmtree(finished, ignore_errors=True)
        os.replace(self._folder, finished)  # noqa: PTH105 - a kill in mid-removal must not leave half of the chunks
        shutil.rmtree(finished)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.npz"))


def check_output(out: Path) -> None:
    """Raise InvalidInputError for an output of an unknown kind, a folder, or one whose library is missing."""
    if out.suffix not in _WRITERS:
        raise InvalidInputError(f"output {out} is of an unknown kind: end it in {', '.join(_WRITERS)}")
    if out.is_dir():
        raise InvalidInputError(f"output {out} is a folder: name a file in it")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InvalidInputError(f"output {out} needs pyarrow: pip install 'midrib-remote[parquet]', or use .npy")


def _lock(folder: Path, out: Path) -> int:
    """Create the folder and lock it for this run; return the descriptor that holds the lock.

    A run that has just ended may have deleted the folder meanwhile: then try again.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise InvalidInputError(f"another run writes {out}: wait for it, or choose another output") from error
        if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)


def _damaged(file: Path, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"{file} is damaged ({error}): delete {file.parent} to begin again")


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a reader, or the next run, sees all of it or nothing."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)  # noqa: PTH105 - the atomic one


def _write_parquet(path: Path, parts: ChunkStore, metadata: dict[str, str]) -> None:
    import pyarrow as pa  # type: ignore[import-untyped] # it has no types
    from pyarrow import parquet

    writer: Any = None
    for chunk in parts.chunks():
        flat = pa.array(np.ascontiguousarray(chunk.features, np.float32).reshape(-1))
        features = pa.FixedSizeListArray.from_arrays(flat, chunk.features.shape[1])
        table = pa.table({"id": pa.array(chunk.ids, pa.string()), "embedding": features})
        table = table.replace_schema_metadata({f"midrib.{key}": value for key, value in metadata.items()})
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is None:
        raise InvalidInputError("the inputs hold no items: check the folders and files given")
    writer.close()


def _write_npy(path: Path, parts: ChunkStore, metadata: dict[str, str]) -> None:
    """The features; ids and revision stand beside them, as JSON."""
    ids, features = _gathered(parts)
    with path.open("wb") as file:
        np.save(file, features)
    beside = parts.out.with_name(parts.out.name + ".json")
    _write_whole(beside, lambda unfinished: unfinished.write_text(json.dumps({**metadata, "ids": ids})))


def _write_safetensors(path: Path, parts: ChunkStore, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    ids, features = _gathered(parts)
    save_file({"embedding": features}, path, {**metadata, "ids": json.dumps(ids)})


def _gathered(parts: ChunkStore) -> tuple[list[str], Array]:
    chunks = list(parts.chunks())
    if not chunks:
        raise InvalidInputError("the inputs hold no items: check the folders and files given")
    return [item_id for chunk in chunks for item_id in chunk.ids], np.concatenate([chunk.features for chunk in chunks])


_WRITERS: dict[str, Callable[[Path, ChunkStore, dict[str, str]], None]] = {
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
}

"""The finished chunks of a long run, on disk: what makes it resumable, and what the output is made of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midrib.wire import Array, InvalidInputError, RevisionMismatchError


@dataclass(frozen=True)
class Chunk:
    """Items that were embedded together. bad: those that could not be, each with its error."""

    ids: list[str]
    features: Array
    bad: list[tuple[str, str]]


class ChunkStore:
    """A folder beside the output, with a file a chunk, each written whole or not at all."""

    def __init__(self, out: Path, backbone: str, revision: str) -> None:
        self.out = out
        self._folder = out.with_name(out.name + ".parts")
        self._backbone, self._revision = backbone, revision
        if out.suffix not in _WRITERS:
            raise InvalidInputError(f"output {out} is of no known kind: end it in {', '.join(_WRITERS)}")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._count = len(self._files())
        recipe = self._folder / "recipe.json"
        mine = {"backbone": backbone, "revision": revision}
        if not recipe.exists():
            _write_whole(recipe, lambda path: path.write_text(json.dumps(mine)))
        elif json.loads(recipe.read_text()) != mine:
            raise RevisionMismatchError(
                f"{self._folder} holds features of another backbone or revision: serve that one to go on, "
                "or delete the folder to begin again"
            )

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk, after those before it."""
        bad = np.array(json.dumps(chunk.bad))

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, ids=np.array(chunk.ids, dtype=np.str_), features=chunk.features, bad=bad)

        _write_whole(self._folder / f"{self._count:08d}.npz", write)
        self._count += 1

    def chunks(self) -> Iterator[Chunk]:
        """What was kept, in order."""
        for file in self._files():
            with np.load(file, allow_pickle=False) as data:
                bad = list(map(tuple, json.loads(str(data["bad"]))))
                yield Chunk(data["ids"].tolist(), data["features"], bad)

    def finish(self) -> None:
        """Make the output of all chunks, and a list of bad items beside it; then forget the chunks."""
        metadata = {"backbone": self._backbone, "revision": self._revision}
        _write_whole(self.out, lambda path: _WRITERS[self.out.suffix](path, self, metadata))
        bad = [pair for chunk in self.chunks() for pair in chunk.bad]
        if bad:
            lines = (json.dumps({"id": item_id, "error": error}) for item_id, error in bad)
            self.out.with_name(self.out.name + ".bad.jsonl").write_text("\n".join(lines) + "\n")
        finished = self._folder.with_name(self._folder.name + ".finished")
        shutil.rmtree(finished, ignore_errors=True)
        os.replace(self._folder, finished)  # noqa: PTH105 - a kill in mid-removal must not leave half of the chunks
        shutil.rmtree(finished)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.npz"))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """A reader, or the next run, sees the whole file or none."""
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
        raise InvalidInputError("the inputs hold no items: nothing to write")
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
        raise InvalidInputError("the inputs hold no items: nothing to write")
    return [item_id for chunk in chunks for item_id in chunk.ids], np.concatenate([chunk.features for chunk in chunks])


_WRITERS: dict[str, Callable[[Path, ChunkStore, dict[str, str]], None]] = {
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
}

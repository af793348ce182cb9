"""`embed_files`: folders and files in, one file of features out. A run that was killed resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np

from midrib.remote._clients.client import Client
from midrib.remote._connect.address import split_url
from midrib.remote._files.chunks import Chunk, ChunkStore, check_output
from midrib.remote._files.sources import SourceItem, read_items
from midrib.wire import Array, InvalidInputError, LimitExceededError, MidribError

_IN_FLIGHT: Final = 4
_FIRST_CHUNK: Final = 64
# A chunk should take about this long.
_CHUNK_S: Final = 4.0
# Per chunk: a backbone may be slow, and nothing of a chunk is saved before all of it is done.
_TIMEOUT_S: Final = 600.0


class Embedder(Protocol):
    """Embeds values: a served backbone, or an object of the caller."""

    name: str
    revision: str
    num_features: int

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of values: "images" (paths or bytes), "texts" (strings) or "tensor" (arrays)."""
        ...


@dataclass(frozen=True)
class Progress:
    """The state of a run, in items.

    done: finished, bad ones and those of earlier runs included.  bad: could not be embedded.
    resumed: finished by earlier runs.  total: of all inputs.
    """

    done: int
    bad: int
    resumed: int
    total: int


class RemoteEmbedder:
    """A served backbone, pinned to the revision that it has now."""

    def __init__(self, url: str, **kwargs: Any) -> None:
        address, self.name = split_url(url)
        self._client = Client(address, **{"priority": "bulk", "timeout": _TIMEOUT_S, **kwargs})
        info = self._client.describe(self.name)
        self.revision, self.num_features = info.revision, info.num_features

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of the values, [values, num_features]; raise the server's errors."""
        named: dict[str, Any] = {"x": np.stack(values)} if kind == "tensor" else {kind: values}
        return self._client.embed(self.name, **named, dtype="float32", revision=self.revision)


def embed_files(
    backbone: str | Embedder | Callable[[], Embedder],
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    column: str = "text",
    id_column: str = "id",
    chunk_items: int = 256,
    on_progress: Callable[[Progress], object] | None = None,
    **kwargs: Any,
) -> Progress:
    """Embed files into one file, with ids and the revision.

    backbone: grpc://host:port/namespace/name, an Embedder, or a function that makes one (called once the inputs and
    the output have been checked).
    inputs: folders of images, image files, .txt (one item per line), .jsonl, .csv, .tsv or .parquet (by column),
    .npy.  out: .parquet, .npy (ids beside it) or .safetensors.
    column: of a table, the texts or encoded images.  id_column: of a table, the names of the rows, if it has them.
    chunk_items: the most items per chunk; smaller chunks are used while the backbone is slow.
    on_progress: called after each chunk.  kwargs: the Client's; priority is "bulk" and timeout 600 s by default.
    A run that was killed resumes where it stopped, with nothing lost or doubled: `<out>.parts` holds what is done.
    Rows that cannot be read, and items that cannot be embedded, are listed in `<out>.bad.jsonl`.
    Raises InvalidInputError if inputs or options changed between runs, if another run writes the same output, or if
    every item is bad; RevisionMismatchError if the backbone changed.
    """
    sources = list(inputs)
    check_output(Path(out))
    total = sum(1 for _ in read_items(sources, column=column, id_column=id_column))
    embedder = _embedder(backbone, kwargs)
    recipe = {"backbone": embedder.name, "revision": embedder.revision, "column": column, "id_column": id_column}
    store = ChunkStore(Path(out), recipe)
    try:
        items = read_items(sources, column=column, id_column=id_column)
        resumed, bad = _skip_finished(store, items)
        done = resumed
        for chunk in _embed_in_order(embedder, items, ChunkSize(chunk_items)):
            store.add(chunk)
            done += len(chunk.ids) + len(chunk.bad)
            bad += len(chunk.bad)
            if on_progress is not None:
                on_progress(Progress(done, bad, resumed, total))
        store.finish()
    finally:
        store.close()
    return Progress(done, bad, resumed, total)


def _embedder(backbone: str | Embedder | Callable[[], Embedder], kwargs: dict[str, Any]) -> Embedder:
    if isinstance(backbone, str):
        return RemoteEmbedder(backbone, **kwargs)
    if not isinstance(backbone, type) and hasattr(backbone, "revision"):
        return cast("Embedder", backbone)
    return backbone()


def _skip_finished(store: ChunkStore, items: Iterator[SourceItem]) -> tuple[int, int]:
    """Skip the items that earlier runs finished; return their number, and that of the bad ones among them.

    Raises InvalidInputError if they are not the items of those runs.
    """
    skipped = bad = 0
    for chunk in store.chunks():
        count = len(chunk.ids) + len(chunk.bad)
        if _digest(list(itertools.islice(items, count))) != chunk.digest:
            raise InvalidInputError(
                f"the inputs changed since {store.out}.parts was begun: give the same ones, or delete that folder"
            )
        skipped += count
        bad += len(chunk.bad)
    return skipped, bad


def _digest(items: Sequence[SourceItem]) -> str:
    """Return a digest of the items' ids and values; of an image file, its size and time of change."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.id, item.kind, item.error)).encode())
        digest.update(_fingerprint(item.value))
    return digest.hexdigest()


def _fingerprint(value: Any) -> bytes:
    if isinstance(value, Path):
        try:
            stat = value.stat()
        except OSError as error:
            return repr(error.errno).encode()
        return repr((stat.st_size, stat.st_mtime_ns)).encode()
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).tobytes()
    return value if isinstance(value, bytes) else repr(value).encode()


class ChunkSize:
    """The number of items per chunk, adapted so that each chunk takes a few seconds: so much is lost by a kill.

    most: the upper limit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.items = min(_FIRST_CHUNK, most)

    def adapt(self, seconds: float) -> None:
        """Take the time of a chunk into account."""
        if seconds > 2 * _CHUNK_S:
            self.items = max(1, self.items // 2)
        elif seconds < _CHUNK_S / 2:
            self.items = min(self._most, 2 * self.items)


def _chunked(items: Iterator[SourceItem], size: ChunkSize) -> Iterator[list[SourceItem]]:
    """Yield neighbours of one kind and shape together; rows that cannot be read are apart."""

    def likeness(item: SourceItem) -> object:
        return item.kind, getattr(item.value, "shape", None), item.error is None

    for _, alike in itertools.groupby(items, key=likeness):
        while chunk := list(itertools.islice(alike, size.items)):
            yield chunk


def _embed_in_order(embedder: Embedder, items: Iterator[SourceItem], size: ChunkSize) -> Iterator[Chunk]:
    """Yield the chunks in order; a few are embedded at the same time.

    When it is interrupted it returns at once: the calls that run are left to their threads.
    """
    pool = ThreadPoolExecutor(_IN_FLIGHT)
    ahead: deque[Future[Chunk]] = deque()

    def embed(chunk: list[SourceItem]) -> Chunk:
        began = time.monotonic()
        embedded = _embed(embedder, chunk)
        size.adapt(time.monotonic() - began)
        return dataclasses.replace(embedded, digest=_digest(chunk))

    try:
        for chunk in _chunked(items, size):
            ahead.append(pool.submit(embed, chunk))
            if len(ahead) > _IN_FLIGHT:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _embed(embedder: Embedder, items: list[SourceItem]) -> Chunk:
    """Return the chunk of the items; if it fails, it is halved until the bad items stand alone."""
    none = np.empty((0, embedder.num_features), np.float32)
    if items[0].error is not None:
        return Chunk([], none, [(item.id, str(item.error)) for item in items])
    try:
        return Chunk([item.id for item in items], embedder(items[0].kind, [item.value for item in items]), [])
    except (ValueError, LimitExceededError, OSError) as error:
        if isinstance(error, MidribError) and not isinstance(error, ValueError):
            raise  # a lost connection or a refused token: no item's fault
        if len(items) == 1:
            return Chunk([], none, [(items[0].id, str(error))])
    halves = [_embed(embedder, half) for half in (items[: len(items) // 2], items[len(items) // 2 :])]
    return Chunk(
        [item_id for half in halves for item_id in half.ids],
        np.concatenate([half.features for half in halves]),
        [pair for half in halves for pair in half.bad],
    )

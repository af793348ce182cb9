"""`embed_files`: folders and files in, one file of features out; killed and started again, it goes on."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from midrib.remote._clients.client import Client
from midrib.remote._connect.address import split_url
from midrib.remote._files.chunks import Chunk, ChunkStore
from midrib.remote._files.sources import SourceItem, read_items
from midrib.wire import Array, InvalidInputError, LimitExceededError, MidribError

_IN_FLIGHT: Final = 4


class Embedder(Protocol):
    """What embeds: a served backbone here, and whatever a caller brings."""

    name: str
    revision: str
    num_features: int

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """The features of values of one kind: "images" (paths or bytes), "texts" (strings) or "tensor" (arrays)."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far it is. done: items finished, bad ones and those of earlier runs included.  total: of all inputs."""

    done: int
    bad: int
    resumed: int
    total: int


class RemoteEmbedder:
    """A served backbone, pinned to the revision that it has now."""

    def __init__(self, url: str, **kwargs: Any) -> None:
        address, self.name = split_url(url)
        self._client = Client(address, **{"priority": "bulk", **kwargs})
        info = self._client.describe(self.name)
        self.revision, self.num_features = info.revision, info.num_features

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """The features of the values; raises what the server says."""
        named: dict[str, Any] = {"x": np.stack(values)} if kind == "tensor" else {kind: values}
        return self._client.embed(self.name, **named, dtype="float32", revision=self.revision)


def embed_files(
    backbone: str | Embedder,
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    column: str = "text",
    chunk_items: int = 256,
    on_progress: Callable[[Progress], object] | None = None,
    **kwargs: Any,
) -> Progress:
    """Embed files into one, with ids and the revision.

    backbone: grpc://host:port/namespace/name, or an Embedder.  inputs: folders of images, image files, .txt (a line an
    item), .jsonl, .csv or .parquet (by column; an `id` column names the rows), .npy.  out: .parquet, .npy (ids beside
    it) or .safetensors.  chunk_items: what a kill may cost.  on_progress: called after each chunk.
    kwargs: Client's; priority is "bulk" where absent.
    A run that was killed goes on where it stopped, nothing lost and nothing doubled: `<out>.parts` holds what is done.
    Rows that cannot be read, and items that cannot be embedded, are kept aside in `<out>.bad.jsonl`.
    Raises InvalidInputError where inputs changed between runs, RevisionMismatchError where the backbone did.
    """
    embedder: Embedder = RemoteEmbedder(backbone, **kwargs) if isinstance(backbone, str) else backbone
    parts = ChunkStore(Path(out), embedder.name, embedder.revision)
    sources = list(inputs)
    total = sum(1 for _ in read_items(sources, column=column))
    items = read_items(sources, column=column)
    done = _skip_finished(parts, items)
    bad = sum(len(chunk.bad) for chunk in parts.chunks())
    resumed = done
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for chunk in _in_order(pool, embedder, _chunked(items, chunk_items)):
            parts.add(chunk)
            done += len(chunk.ids) + len(chunk.bad)
            bad += len(chunk.bad)
            if on_progress is not None:
                on_progress(Progress(done, bad, resumed, total))
    parts.finish()
    return Progress(done, bad, resumed, total)


def _skip_finished(parts: ChunkStore, items: Iterator[SourceItem]) -> int:
    """Pass over what earlier runs finished; chunks are kept in order, so that is the beginning."""
    skipped = 0
    for chunk in parts.chunks():
        count = len(chunk.ids) + len(chunk.bad)
        found = {item.id for item in itertools.islice(items, count)}
        if found != {*chunk.ids, *(item_id for item_id, _ in chunk.bad)}:
            raise InvalidInputError(
                f"the inputs changed since {parts.out}.parts was begun: give the same ones, or delete that folder"
            )
        skipped += count
    return skipped


def _chunked(items: Iterator[SourceItem], count: int) -> Iterator[list[SourceItem]]:
    """Neighbours of one kind and shape, at most so many; unreadable ones by themselves."""

    def likeness(item: SourceItem) -> object:
        return item.kind, getattr(item.value, "shape", None), item.error is None

    for _, alike in itertools.groupby(items, key=likeness):
        while chunk := list(itertools.islice(alike, count)):
            yield chunk


def _in_order(pool: ThreadPoolExecutor, embedder: Embedder, chunks: Iterator[list[SourceItem]]) -> Iterator[Chunk]:
    ahead: deque[Future[Chunk]] = deque()
    for chunk in chunks:
        ahead.append(pool.submit(_embed, embedder, chunk))
        if len(ahead) > _IN_FLIGHT:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _embed(embedder: Embedder, items: list[SourceItem]) -> Chunk:
    """A chunk's features; where one item spoils it, each by itself, and the bad ones aside."""
    none = np.empty((0, embedder.num_features), np.float32)
    if items[0].error is not None:
        return Chunk([], none, [(item.id, str(item.error)) for item in items])
    try:
        return Chunk([item.id for item in items], embedder(items[0].kind, [item.value for item in items]), [])
    except (InvalidInputError, LimitExceededError, OSError) as error:
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

"""Embed items in chunks, several at the same time, and find the bad items."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from midrib.remote._files.chunks import Chunk
from midrib.remote._files.embedders import OutputOptions, ParallelEmbedder, ValueEmbedder
from midrib.remote._files.items import SourceItem
from midrib.remote._files.storage import LocalFile, RemoteFile
from midrib.wire import LimitExceededError, MidribError

_IN_FLIGHT: Final = 4
_FIRST_CHUNK: Final = 64
# A chunk should take about this long.
_CHUNK_S: Final = 4.0


class ChunkSize:
    """The number of items per chunk, adapted so that a chunk takes a few seconds: a kill loses only a few of them.

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


def embed_in_order(
    embedder: ValueEmbedder, items: Iterator[SourceItem], size: ChunkSize, options: OutputOptions
) -> Iterator[Chunk]:
    """Yield the chunks in order; a few are embedded at the same time.

    If it is interrupted, it returns at once and does not wait for the calls that run.
    """
    in_flight = embedder.concurrency if isinstance(embedder, ParallelEmbedder) else _IN_FLIGHT
    pool = ThreadPoolExecutor(in_flight)
    ahead: deque[Future[Chunk]] = deque()

    def embed(chunk: list[SourceItem]) -> Chunk:
        return dataclasses.replace(_embed_timed(embedder, chunk, size, options), digest=digest_of(chunk))

    try:
        for chunk in _chunked(items, size):
            ahead.append(pool.submit(embed, chunk))
            if len(ahead) > in_flight:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def embed_in_this_thread(
    embedder: ValueEmbedder, items: Iterator[SourceItem], size: ChunkSize, options: OutputOptions
) -> Iterator[Chunk]:
    """Yield the chunks in order, without digests.

    For a backbone of this process that is called repeatedly: the memory of one thread's pass serves the next pass.
    """
    for chunk in _chunked(items, size):
        yield _embed_timed(embedder, chunk, size, options)


def digest_of(items: Sequence[SourceItem]) -> str:
    """Return a digest of the items' ids and values; of a file, its size and time of change."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.id, item.kind, item.error, *item.kept.items())).encode())
        digest.update(_fingerprint(item.value))
    return digest.hexdigest()


def _fingerprint(value: Any) -> bytes:
    if isinstance(value, LocalFile | RemoteFile):
        return value.stamp().encode()
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).tobytes()
    return value if isinstance(value, bytes) else repr(value).encode()


def _chunked(items: Iterator[SourceItem], size: ChunkSize) -> Iterator[list[SourceItem]]:
    """Yield runs of items of one kind and shape; rows that cannot be read are in runs without others."""

    def likeness(item: SourceItem) -> object:
        return item.kind, getattr(item.value, "shape", None), item.error is None

    for _, alike in itertools.groupby(items, key=likeness):
        while chunk := list(itertools.islice(alike, size.items)):
            yield chunk


def _embed_timed(embedder: ValueEmbedder, items: list[SourceItem], size: ChunkSize, options: OutputOptions) -> Chunk:
    """Embed items, and adapt the size of the next chunks to their time."""
    began = time.monotonic()
    chunk = _embed(embedder, items, options)
    size.adapt(time.monotonic() - began)
    return chunk


def _embed(embedder: ValueEmbedder, items: list[SourceItem], options: OutputOptions) -> Chunk:
    """Embed items; if that fails, halve them repeatedly, so that only the bad ones are left out."""
    if items[0].error is not None:
        return _bad(items, options.width(embedder), [str(item.error) for item in items])
    try:
        features = options.embed(embedder, items[0].kind, [item.load() for item in items])
        kept = {name: [item.kept[name] for item in items] for name in items[0].kept}
        return Chunk([item.id for item in items], features, [], kept)
    except (ValueError, LimitExceededError, OSError) as error:
        if isinstance(error, MidribError) and not isinstance(error, ValueError):
            raise  # a lost connection or a refused token: not the fault of an item
        if len(items) == 1:
            return _bad(items, options.width(embedder), [str(error)])
    middle = len(items) // 2
    return _joined([_embed(embedder, half, options) for half in (items[:middle], items[middle:])])


def _bad(items: list[SourceItem], width: int, errors: list[str]) -> Chunk:
    ids = [item.id for item in items]
    kept: dict[str, list[Any]] = {name: [] for name in items[0].kept}
    return Chunk([], np.empty((0, width), np.float32), list(zip(ids, errors, strict=True)), kept)


def _joined(halves: list[Chunk]) -> Chunk:
    return Chunk(
        [item_id for half in halves for item_id in half.ids],
        np.concatenate([half.features for half in halves if half.ids] or [halves[0].features]),
        [pair for half in halves for pair in half.bad],
        {name: [value for half in halves for value in half.kept[name]] for name in halves[0].kept},
    )

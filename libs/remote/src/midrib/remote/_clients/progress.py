"""The progress bar of embed_stream(progress=True)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from typing import Any

from midrib.wire import Array


def shown(results: Generator[Array, None, None], batches: object) -> Iterator[Array]:
    """Yield the results [rows, num_features] unchanged, with a bar on stderr; its total is the length of batches."""
    with closing(results), _bar(batches) as bar:
        for features in results:
            bar.update()
            yield features


async def shown_async(results: AsyncGenerator[Array, None], batches: object) -> AsyncIterator[Array]:
    """Yield the results [rows, num_features] of an asynchronous stream, as `shown` does."""
    with _bar(batches) as bar:
        async with aclosing(results):
            async for features in results:
                bar.update()
                yield features


def _bar(batches: object) -> Any:
    """Return a bar on stderr. Raises ImportError without tqdm."""
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped] # it has no types
    except ImportError as error:
        raise ImportError(f"progress=True needs tqdm ({error}): pip install 'midrib-remote[progress]'") from error
    total = len(batches) if hasattr(batches, "__len__") else None
    return tqdm(total=total, unit="batch", desc="embed")

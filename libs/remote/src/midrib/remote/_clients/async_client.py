"""`AsyncClient`: the client for callers on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack

from numpy.typing import ArrayLike

from midrib.remote._clients.options import (
    EMBED_OPTIONS,
    STREAM_OPTIONS,
    EmbedOptions,
    FeatureOptions,
    Kind,
    StreamOptions,
    batch_rows,
    feature_options,
    input_rows,
)
from midrib.remote._clients.progress import shown_async
from midrib.remote._clients.sessions import ClientBase, ReadAhead
from midrib.remote._connect.backbone_calls import Argument
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._items.rows import Rows
from midrib.remote._stream.session import CallSession
from midrib.wire import Array, RevisionMismatchError


class AsyncClient(ClientBase):
    """`Client`, awaited: usable from any event loop. The calls of concurrent tasks are joined into messages.

    The arguments and errors are `Client`'s.
    """

    def __enter__(self) -> NoReturn:
        """Raise TypeError: this client is closed by a coroutine."""
        raise TypeError(
            "AsyncClient needs `async with AsyncClient(...)`; without an event loop, use `with Client(...)`"
        )

    def __exit__(self, *_error: object) -> None:
        """Python looks for it before it calls `__enter__`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close this client's streams; a later call opens them again."""
        await asyncio.to_thread(self._sessions.close)

    async def list(self, *, wait: bool = True) -> list[BackboneInfo]:
        """Return every backbone of the server, ordered by name; see `Client.list`."""
        return await self._servers.run_async(self._servers.list_loaded if wait else self._servers.list)

    async def describe(self, name: str, *, wait: bool = True) -> BackboneInfo:
        """Return the description of one backbone; see `Client.describe`."""
        describe = self._servers.describe_settled if wait else self._servers.describe
        info = await self._servers.run_async(lambda: describe(name))
        self._sessions.learn(name, info)
        return info

    async def load(self, name: str, *, replace: bool = False, **arguments: Argument) -> BackboneInfo:
        """Have the server load a registered backbone, with arguments that clients may set. Needs the admin scope.

        replace: whether a backbone that serves the name with other arguments may be replaced, for every client.
        """
        return await self._servers.run_async(lambda: self._servers.load(name, arguments, replace=replace))

    async def unload(self, name: str) -> None:
        """Have the server finish and free a backbone. Needs the admin scope."""
        await self._servers.run_async(lambda: self._servers.unload(name))

    async def embed(self, name: str, x: ArrayLike | None = None, **options: Unpack[EmbedOptions]) -> Array:
        """Return the features of a batch, [rows, num_features]; see `Client.embed`."""
        features = feature_options(options, EMBED_OPTIONS)
        rows = input_rows(x, options)
        changes = self._changes(features)
        while True:
            session = self._sessions.get(name, features) or await self._session(name, features)
            try:
                return await session.wait_async(session.submit(rows), self._servers.timeout)
            except RevisionMismatchError:
                if (pause_s := changes.next_pause_s()) is None:
                    raise
                self._sessions.forget(name)  # follow the server, with all rows of one revision
                await asyncio.sleep(pause_s)

    def embed_stream(
        self,
        name: str,
        batches: Iterable[Any] | AsyncIterable[Any],
        *,
        kind: Kind = "tensor",
        progress: bool = False,
        **options: Unpack[StreamOptions],
    ) -> AsyncIterator[Array]:
        """Return the features [rows, num_features] of each batch, in order; see `Client.embed_stream`."""
        features, rate = feature_options(options, STREAM_OPTIONS), options.get("rate")
        results = self._results(name, features, (batch_rows(batch, kind, rate) async for batch in _each(batches)))
        return shown_async(results, batches) if progress else results

    async def _results(
        self, name: str, options: FeatureOptions, batches: AsyncIterable[Rows]
    ) -> AsyncGenerator[Array, None]:
        ahead = ReadAhead(await self._session(name, options), self._changes(options))
        try:
            async for rows in batches:
                ahead.submit(rows)
                while ahead.ready:
                    yield await self._next(name, options, ahead)
            while ahead.calls:
                yield await self._next(name, options, ahead)
        finally:
            ahead.leave()

    async def _next(self, name: str, options: FeatureOptions, ahead: ReadAhead) -> Array:
        """Return the next features of a stream; before the first, follow the server to another revision."""
        while True:
            try:
                features = await ahead.session.wait_async(ahead.calls[0], self._servers.timeout)
            except RevisionMismatchError:
                if options.revision is None:
                    self._sessions.forget(name)
                if (pause_s := ahead.changes.next_pause_s()) is None:
                    raise
                await asyncio.sleep(pause_s)
                ahead.call_again(await self._session(name, options))
            else:
                ahead.pop_answered()
                return features

    async def _session(self, name: str, options: FeatureOptions) -> CallSession:
        while (session := self._sessions.get(name, options)) is None:
            await self.describe(name)
        return session


async def _each(batches: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
        return
    for batch in batches:
        yield batch
        await asyncio.sleep(0)  # a long iterable must not block the caller's loop

"""`AsyncClient`: the client for callers on an event loop of their own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from numpy.typing import ArrayLike

from midrib.remote._clients.options import (
    AHEAD_BYTES,
    AHEAD_ITEMS,
    FOLLOWED,
    EmbedOptions,
    Kind,
    SessionCache,
    batch_rows,
    rows_from,
)
from midrib.remote._clients.progress import shown_async
from midrib.remote._connect.address import TlsLike, endpoint_from
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._connect.unary import Argument, UnaryCalls
from midrib.remote._stream.call import Call
from midrib.remote._stream.media import ImageLike
from midrib.remote._stream.request import CallPolicy, Priority
from midrib.remote._stream.rows import Rows
from midrib.remote._stream.session import Session
from midrib.wire import Array, RevisionMismatchError


class AsyncClient:
    """`Client`, awaited: usable from any event loop, and tasks that call at once travel together.

    The arguments and errors are `Client`'s.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,  # - the deadline of every call, not of a block
        token: str | None = None,
        tls: TlsLike = None,
        hedge_s: float | None = None,
        priority: Priority = "interactive",
    ) -> None:
        self._servers = UnaryCalls(endpoint_from(address, token=token, tls=tls), timeout)
        self._sessions = SessionCache(self._servers, CallPolicy(timeout, hedge_s=hedge_s, priority=priority))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({str(self._servers.endpoint)!r})"

    async def close(self) -> None:
        """Close this client's streams; a later call opens them again."""
        await asyncio.to_thread(self._sessions.close)

    async def list(self) -> list[BackboneInfo]:
        """Every backbone of the server, ordered by name."""
        return await self._servers.run_async(self._servers.list)

    async def describe(self, name: str) -> BackboneInfo:
        """One backbone. Raises BackboneNotFoundError, with the nearest names."""
        info = await self._servers.run_async(lambda: self._servers.describe(name))
        self._sessions.learn(name, info)
        return info

    async def load(self, name: str, *, replace: bool = False, **arguments: Argument) -> BackboneInfo:
        """Have the server load a registered backbone, with arguments that clients may set. Needs the admin scope.

        replace: whether a backbone that serves the name with other arguments may be replaced, for every client.
        """
        return await self._servers.run_async(lambda: self._servers.load(name, arguments, replace=replace))

    async def unload(self, name: str) -> None:
        """Have the server finish and free a backbone. Admin scope."""
        await self._servers.run_async(lambda: self._servers.unload(name))

    async def embed(
        self,
        name: str,
        x: ArrayLike | None = None,
        *,
        images: Sequence[ImageLike] | None = None,
        texts: Sequence[str] | None = None,
        audio: Sequence[ArrayLike] | None = None,
        rate: int | None = None,
        dtype: str | None = None,
        normalize: bool = False,
        dimensions: int | None = None,
        revision: str | None = None,
    ) -> Array:
        """The features of a batch, [rows, num_features]; see `Client.embed`."""
        rows = rows_from(x, images, texts, audio, rate)
        asked = EmbedOptions(dtype, normalize, dimensions, revision)
        for _ in range(FOLLOWED if revision is None else 0):
            session = self._sessions.get(name, asked) or await self._session(name, asked)
            try:
                return await session.wait_async(session.submit(rows), self._servers.timeout)
            except RevisionMismatchError:
                self._sessions.forget(name)
        session = self._sessions.get(name, asked) or await self._session(name, asked)
        return await session.wait_async(session.submit(rows), self._servers.timeout)

    def embed_stream(
        self,
        name: str,
        batches: Iterable[Any] | AsyncIterable[Any],
        *,
        kind: Kind = "tensor",
        rate: int | None = None,
        dtype: str | None = None,
        normalize: bool = False,
        dimensions: int | None = None,
        revision: str | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Array]:
        """The features of each batch, in order, read only a little ahead; see `Client.embed_stream`."""
        asked = EmbedOptions(dtype, normalize, dimensions, revision)
        results = self._results(name, asked, (batch_rows(batch, kind, rate) async for batch in _each(batches)))
        return shown_async(results, batches) if progress else results

    async def _results(
        self, name: str, asked: EmbedOptions, batches: AsyncIterable[Rows]
    ) -> AsyncGenerator[Array, None]:
        session = await self._session(name, asked)
        ahead: deque[Call] = deque()
        ahead_bytes = 0
        try:
            async for rows in batches:
                ahead.append(session.submit(rows))
                ahead_bytes += ahead[-1].rows.nbytes
                while ahead and (len(ahead) >= AHEAD_ITEMS or ahead_bytes > AHEAD_BYTES or ahead[0].done):
                    ahead_bytes -= ahead[0].rows.nbytes
                    yield await session.wait_async(ahead.popleft(), self._servers.timeout)
            while ahead:
                yield await session.wait_async(ahead.popleft(), self._servers.timeout)
        finally:
            for call in ahead:
                call.leave()

    async def _session(self, name: str, asked: EmbedOptions) -> Session:
        while (session := self._sessions.get(name, asked)) is None:
            await self.describe(name)
        return session


async def _each(batches: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
        return
    for batch in batches:
        yield batch
        await asyncio.sleep(0)  # a long iterable must not hold the caller's loop

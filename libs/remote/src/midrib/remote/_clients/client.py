"""`Client`: embeddings as numpy arrays, without torch."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
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
from midrib.remote._clients.progress import shown
from midrib.remote._clients.sessions import ClientBase, ReadAhead
from midrib.remote._connect.backbone_calls import Argument
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._items.rows import Rows
from midrib.remote._stream.session import CallSession
from midrib.wire import Array, RevisionMismatchError


class Client(ClientBase):
    """Calls Midrib servers; safe to use from any thread, and after a fork. A pickle of it contains the token.

    address: "host:port", several separated by commas (balanced, with fail-over), or a grpc:// or grpcs:// URL.
    Followed by ?connections=4 it is called over four connections, which a proxy may spread over several servers.
    timeout: seconds that a call may take, its retries included.  token: $MIDRIB_TOKEN by default.
    tls: True, the path of a PEM file of root certificates, or a `Tls` (mutual TLS); the scheme decides by default.
    hedge_s: with several servers, seconds after which an unanswered item is sent to a second one as well.
    priority: the share of a busy device beside other clients: "interactive" (16 parts), "training" (4) or "bulk" (1).
    shared_memory: large tensors go through shared memory if a server runs on this machine (Linux) as this user. False:
    never. True: calls raise UnsupportedError if that is not possible.
    Connecting is lazy: the first call connects, and raises UnavailableError if no server answers.
    """

    async def __aenter__(self) -> NoReturn:
        """Raise TypeError: this client blocks, and would stop the event loop."""
        raise TypeError("Client needs `with Client(...)`; on an event loop, use `async with AsyncClient(...)`")

    async def __aexit__(self, *_error: object) -> None:
        """Python looks for it before it calls `__aenter__`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close this client's streams; a later call opens them again."""
        self._sessions.close()

    def list(self, *, wait: bool = True) -> list[BackboneInfo]:
        """Return every backbone of the server, ordered by name.

        wait: let those that are loading finish, within the timeout; those that do not are in the list as "loading".
        """
        return self._servers.run(self._servers.list_loaded if wait else self._servers.list)

    def describe(self, name: str, *, wait: bool = True) -> BackboneInfo:
        """Return the description of one backbone.

        wait: let it finish loading, within the timeout; else a backbone may be "loading", without input and revision.
        Raises BackboneNotFoundError, with the nearest names; BackboneLoadingError if it still loads when time is up.
        """
        describe = self._servers.describe_settled if wait else self._servers.describe
        info = self._servers.run(lambda: describe(name))
        self._sessions.learn(name, info)
        return info

    def load(self, name: str, *, replace: bool = False, **arguments: Argument) -> BackboneInfo:
        """Have the server load a registered backbone, with arguments that clients may set. Needs the admin scope.

        replace: whether a backbone that serves the name with other arguments may be replaced, for every client.
        """
        return self._servers.run(lambda: self._servers.load(name, arguments, replace=replace))

    def unload(self, name: str) -> None:
        """Have the server finish and free a backbone. Needs the admin scope."""
        self._servers.run(lambda: self._servers.unload(name))

    def embed(self, name: str, x: ArrayLike | None = None, **options: Unpack[EmbedOptions]) -> Array:
        """Return the features of a batch, [rows, num_features], for any number of rows.

        x: [rows, ...], the backbone's own input, or a sequence of texts; or one of images=, texts= and audio=.
        options: see `EmbedOptions`.
        Raises a MidribError, which names a remedy.
        """
        features = feature_options(options, EMBED_OPTIONS)
        rows = input_rows(x, options)
        changes = self._changes(features)
        while True:
            session = self._session(name, features)
            try:
                return session.wait(session.submit(rows), self._servers.timeout)
            except RevisionMismatchError:
                if (pause_s := changes.next_pause_s()) is None:
                    raise
                self._sessions.forget(name)  # follow the server, with all rows of one revision
                time.sleep(pause_s)

    def embed_stream(
        self,
        name: str,
        batches: Iterable[Any],
        *,
        kind: Kind = "tensor",
        progress: bool = False,
        **options: Unpack[StreamOptions],
    ) -> Iterator[Array]:
        """Return the features [rows, num_features] of each batch, in order.

        Reads ahead of its consumer by at most 64 batches and 64 MB.

        batches: each as `embed` takes it, of one kind: "tensor", "images", "texts" or "audio".
        progress: show a bar on stderr (by tqdm).  options: see `StreamOptions`.
        All results are of one revision: RevisionMismatchError ends the stream if the server changes it.
        """
        features, rate = feature_options(options, STREAM_OPTIONS), options.get("rate")
        results = self._results(name, features, (batch_rows(batch, kind, rate) for batch in batches))
        return shown(results, batches) if progress else results

    def _results(self, name: str, options: FeatureOptions, batches: Iterable[Rows]) -> Generator[Array, None, None]:
        ahead = ReadAhead(self._session(name, options), self._changes(options))
        try:
            for rows in batches:
                ahead.submit(rows)
                while ahead.ready:
                    yield self._next(name, options, ahead)
            while ahead.calls:
                yield self._next(name, options, ahead)
        finally:
            ahead.leave()

    def _next(self, name: str, options: FeatureOptions, ahead: ReadAhead) -> Array:
        """Return the next features of a stream; before the first, follow the server to another revision."""
        while True:
            try:
                features = ahead.session.wait(ahead.calls[0], self._servers.timeout)
            except RevisionMismatchError:
                if options.revision is None:
                    self._sessions.forget(name)
                if (pause_s := ahead.changes.next_pause_s()) is None:
                    raise
                time.sleep(pause_s)
                ahead.call_again(self._session(name, options))
            else:
                ahead.pop_answered()
                return features

    def _session(self, name: str, options: FeatureOptions) -> CallSession:
        while (session := self._sessions.get(name, options)) is None:
            self.describe(name)
        return session

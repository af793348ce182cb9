"""`Client`: embeddings as numpy arrays, without torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
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
from midrib.remote._clients.progress import shown
from midrib.remote._connect.address import TlsLike, endpoint_from
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._connect.unary import Argument, UnaryCalls
from midrib.remote._stream.call import Call
from midrib.remote._stream.media import ImageLike
from midrib.remote._stream.request import CallPolicy, Priority
from midrib.remote._stream.rows import Rows
from midrib.remote._stream.session import Session
from midrib.wire import Array, RevisionMismatchError


class Client:
    """Talks to Midrib servers; safe to use from any thread, and after a fork.

    address: "host:port", several divided by commas (balanced, with fail-over), or a grpc:// or grpcs:// URL.
    timeout: seconds that any call may take, its retries included.  token: $MIDRIB_TOKEN where absent.
    tls: True, the path of a PEM file of root certificates, or a `Tls` (mutual TLS); by the scheme where absent.
    hedge_s: of several servers, ask another one as well for what one has not answered within so many seconds.
    priority: the share of a busy device beside other clients: "interactive" (16 parts), "training" (4) or "bulk" (1).
    Connecting is lazy: the first call does it, and says clearly where nothing answers.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        token: str | None = None,
        tls: TlsLike = None,
        hedge_s: float | None = None,
        priority: Priority = "interactive",
    ) -> None:
        self._servers = UnaryCalls(endpoint_from(address, token=token, tls=tls), timeout)
        self._sessions = SessionCache(self._servers, CallPolicy(timeout, hedge_s=hedge_s, priority=priority))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({str(self._servers.endpoint)!r})"

    def close(self) -> None:
        """Close this client's streams; a later call opens them again."""
        self._sessions.close()

    def list(self) -> list[BackboneInfo]:
        """Every backbone of the server, ordered by name."""
        return self._servers.run(self._servers.list)

    def describe(self, name: str) -> BackboneInfo:
        """One backbone. Raises BackboneNotFoundError, with the nearest names."""
        info = self._servers.run(lambda: self._servers.describe(name))
        self._sessions.learn(name, info)
        return info

    def load(self, name: str, *, replace: bool = False, **arguments: Argument) -> BackboneInfo:
        """Have the server load a registered backbone, with arguments that clients may set. Needs the admin scope.

        replace: whether a backbone that serves the name with other arguments may be replaced, for every client.
        """
        return self._servers.run(lambda: self._servers.load(name, arguments, replace=replace))

    def unload(self, name: str) -> None:
        """Have the server finish and free a backbone. Admin scope."""
        self._servers.run(lambda: self._servers.unload(name))

    def embed(
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
        """The features of a batch, [rows, num_features]; any number of rows.

        One of: x, [rows, ...], the backbone's own input; images, encoded (bytes), as paths, PIL images or uint8
        arrays [height, width, 3]; texts; audio, mono clips [samples] in -1..1 at rate samples a second.
        dtype: of the features, the backbone's compute type where absent; "int8" travels in a byte each, off by at most
        1/254 of its row's largest, and comes as float32.  normalize: rows of unit length.
        dimensions: keep the first so many features.  revision: refuse to answer with another.
        Raises a MidribError that says what to do.
        """
        rows = rows_from(x, images, texts, audio, rate)
        asked = EmbedOptions(dtype, normalize, dimensions, revision)
        for _ in range(FOLLOWED if revision is None else 0):
            session = self._session(name, asked)
            try:
                return session.wait(session.submit(rows), self._servers.timeout)
            except RevisionMismatchError:
                self._sessions.forget(name)  # follow the server, with all rows of one revision
        session = self._session(name, asked)
        return session.wait(session.submit(rows), self._servers.timeout)

    def embed_stream(
        self,
        name: str,
        batches: Iterable[Any],
        *,
        kind: Kind = "tensor",
        rate: int | None = None,
        dtype: str | None = None,
        normalize: bool = False,
        dimensions: int | None = None,
        revision: str | None = None,
        progress: bool = False,
    ) -> Iterator[Array]:
        """The features of each batch, in order; reads only a little ahead of its consumer (64 batches, 64 MB).

        batches: each as `embed` takes it, of one kind: "tensor", "images", "texts" or "audio".
        All results are of one revision: where the server changes it, RevisionMismatchError ends the stream.
        progress: show a bar on stderr (by tqdm).
        """
        asked = EmbedOptions(dtype, normalize, dimensions, revision)
        results = self._results(name, asked, (batch_rows(batch, kind, rate) for batch in batches))
        return shown(results, batches) if progress else results

    def _results(self, name: str, asked: EmbedOptions, batches: Iterable[Rows]) -> Generator[Array, None, None]:
        session = self._session(name, asked)
        ahead: deque[Call] = deque()
        ahead_bytes = 0
        try:
            for rows in batches:
                ahead.append(session.submit(rows))
                ahead_bytes += ahead[-1].rows.nbytes
                while ahead and (len(ahead) >= AHEAD_ITEMS or ahead_bytes > AHEAD_BYTES or ahead[0].done):
                    ahead_bytes -= ahead[0].rows.nbytes
                    yield session.wait(ahead.popleft(), self._servers.timeout)
            while ahead:
                yield session.wait(ahead.popleft(), self._servers.timeout)
        finally:
            for call in ahead:
                call.leave()

    def _session(self, name: str, asked: EmbedOptions) -> Session:
        while (session := self._sessions.get(name, asked)) is None:
            self.describe(name)
        return session

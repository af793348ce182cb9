"""One HTTP request through the engine, with the bytes that it holds of the quotas until its answer is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from midrib.registry import TextInput
from midrib.server._admission.quotas import Limit, Reservation
from midrib.server._admission.tokens import Scope
from midrib.server._calls.embedder import Embedded, RequestEmbedder
from midrib.server._calls.requests import Caller
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.description import ServedDescription
from midrib.server._intake.media_input import number_of_media
from midrib.v1 import embedding_pb2
from midrib.wire import Array, OverloadedError


class CallAnswer(NamedTuple):
    """The embedding of one call.

    by: the backbone that computed it.  features: [rows, dimensions].  tokens: those of all texts, 0 for other media.
    """

    by: ServedDescription
    features: Array
    tokens: int


CURRENT_CALL: ContextVar[HttpCall] = ContextVar("CURRENT_CALL")
"""The call of the request that is being handled."""


class HttpCall:
    """A request that counts in the quotas of the server and of its tenant, as one item.

    caller: the caller, once the guard has let the request pass.  held: the bytes that the request holds now.
    refusal: the reason of the error that it ends in; empty if it ends well.

    It never waits for room, so that two calls cannot block each other: without room it is refused, at any stage.
    """

    def __init__(self, embedder: RequestEmbedder) -> None:
        self.caller = Caller(None)
        self.held = 0
        self.refusal = ""
        self._embedder = embedder
        self._reservation = Reservation()

    def begin(self) -> None:
        """Count the call in the rate of its token. Raises OverloadedError if that is exceeded."""
        if self.caller.tenant is not None:
            self.caller.tenant.requests.acquire_nowait(1)

    def hold(self, size: int, *more: tuple[Limit, int]) -> None:
        """Hold `size` bytes instead of those held before.

        more: further limits, and how much of each.
        Raises OverloadedError if the quotas have no room, and UnauthenticatedError or PermissionDeniedError if the
        token has been withdrawn or lost its scope.
        """
        self.release()
        amounts: list[tuple[Limit, int]] = [*more, (self._embedder.in_flight.share(self.caller.flow), size)]
        if (tenant := self.caller.tenant) is not None:
            tenant.require(Scope.EMBED)
            amounts += [(tenant.in_flight_bytes, size), (tenant.in_flight_items, 1)]
        reservation = Reservation(*amounts)
        reservation.acquire_nowait()
        self._reservation, self.held = reservation, size

    def release(self) -> None:
        """Release all held bytes."""
        self._reservation.release()
        self.held = 0

    def hold_items(self, requests: Sequence[embedding_pb2.EmbedRequest], loaded: Loaded, *, row_bytes: int) -> None:
        """Hold the bytes of requests while they are in flight, and those of their answer.

        row_bytes: the bytes of the answer for each row.
        Raises the errors of `hold`.
        """
        rows = sum(_rows(request.input) for request in requests)
        size = sum(loaded.intake.size(request.input) for request in requests)
        tenant = self.caller.tenant
        used = Reservation() if tenant is None else Reservation((tenant.bytes, size))
        used.acquire_nowait()
        try:
            self.hold(rows * row_bytes + size, (self._embedder.quota_of(loaded).share(self.caller.flow), size))
        except OverloadedError:
            used.undo()  # a refused call uses nothing of the rate
            raise

    async def embed(self, requests: Sequence[embedding_pb2.EmbedRequest]) -> CallAnswer:
        """Return the embedding of several requests for one backbone, computed at the same time and joined in order.

        The caller holds their bytes already.  Raises the error of the first one that fails; the others are cancelled.
        """
        tasks = [asyncio.ensure_future(self._embedder.embed_reserved(request, self.caller)) for request in requests]
        try:
            parts = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        features = parts[0].features if len(parts) == 1 else np.concatenate([part.features for part in parts])
        return CallAnswer(parts[0].by, features, sum(map(_tokens, parts)))


def _rows(message: embedding_pb2.Input) -> int:
    if message.HasField("tensor"):
        return message.tensor.shape[0] if message.tensor.shape else 0
    return number_of_media(message)


def _tokens(part: Embedded) -> int:
    return int(np.count_nonzero(part.inputs)) if isinstance(part.by.input, TextInput) else 0

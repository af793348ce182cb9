"""One call through the engine, the same for every protocol."""

from __future__ import annotations

import time
from typing import NamedTuple

from midrib.server._admission.quotas import Quota, Reservation
from midrib.server._admission.tokens import Scope
from midrib.server._calls.requests import Caller, check_reply, empty_outcome, new_item, open_backbone, timing
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.item import Outcome
from midrib.server._engine.served_backbone import Description
from midrib.server._intake.options import apply_options, check_options
from midrib.v1 import embedding_pb2
from midrib.wire import Array


class Embedded(NamedTuple):
    """The result of one call.

    by: the backbone that computed it.  inputs: [rows, ...], as given to its module.
    features: [rows, dimensions], after the caller's options were applied.
    """

    by: Description
    inputs: Array
    features: Array
    timing: embedding_pb2.Timing


class Embedder:
    """Run calls on the backbones of a catalogue, within one quota of bytes in flight."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.in_flight = Quota(catalogue.settings.max_in_flight_bytes)
        self.calls = 0

    async def embed(
        self, request: embedding_pb2.EmbedRequest, caller: Caller, *, tensor: Array | None = None
    ) -> Embedded:
        """Return the embedding of one request.

        tensor: [rows, ...], the input if it was read apart from the request.
        Raises OverloadedError at once if there is no room and the caller does not wait for it, and MidribError for
        an unknown backbone, an invalid input or options, or a failed computation.
        """
        embedded, reservation = await self.embed_held(request, caller, tensor=tensor)
        reservation.release()
        return embedded

    async def embed_held(
        self, request: embedding_pb2.EmbedRequest, caller: Caller, *, tensor: Array | None = None
    ) -> tuple[Embedded, Reservation]:
        """Do the same as `embed`, and return the reservation too: release it once the answer is written."""
        self.calls += 1
        arrived = time.monotonic()
        loaded = open_backbone(self.catalogue, request)
        reservation = await self._reserved(loaded.intake.size(request.input if tensor is None else tensor), caller)
        try:
            return await self._embed(request, caller, tensor=tensor, arrived=arrived), reservation
        except BaseException:
            reservation.release()
            raise

    async def embed_reserved(self, request: embedding_pb2.EmbedRequest, caller: Caller) -> Embedded:
        """Do the same as `embed` for a caller that has reserved room for the item."""
        self.calls += 1
        return await self._embed(request, caller, tensor=None, arrived=time.monotonic())

    async def _embed(
        self, request: embedding_pb2.EmbedRequest, caller: Caller, *, tensor: Array | None, arrived: float
    ) -> Embedded:
        loaded = open_backbone(self.catalogue, request)
        described = loaded.served.description
        check_options(request.options, described.num_features)
        rows = await loaded.intake.read(request.input) if tensor is None else loaded.intake.checked(tensor)
        check_reply(loaded, len(rows), request.options, self.catalogue.settings.max_message_bytes)
        outcome = await _compute(loaded, (rows,), caller)
        return Embedded(described, rows, apply_options(outcome.rows, request.options), timing(outcome, arrived))

    async def run(self, loaded: Loaded, arrays: tuple[Array, ...], caller: Caller) -> Outcome:
        """Return the outcome of one item of these arrays; its rows are as large as the first array."""
        reservation = await self._reserved(sum(array.nbytes for array in (*arrays, arrays[0])), caller)
        try:
            return await _compute(loaded, arrays, caller)
        finally:
            reservation.release()

    def reservation(self, size: int, caller: Caller, *more: tuple[Quota, int]) -> Reservation:
        """Return the reservation of an item of `size` bytes: in the server's quota, its tenant's, and those in `more`.

        Raises UnauthenticatedError or PermissionDeniedError if the token has been withdrawn meanwhile.
        """
        tenant = caller.tenant
        if tenant is None:
            return Reservation(*more, (self.in_flight, size))
        tenant.require(Scope.EMBED)
        return Reservation(*tenant.amounts(size), *more, (self.in_flight, size))

    async def _reserved(self, size: int, caller: Caller) -> Reservation:
        """Reserve room for an item of `size` bytes, before its media are decoded."""
        reservation = self.reservation(size, caller)
        if caller.waits_for_room:
            await reservation.acquire()
        else:
            reservation.acquire_nowait()
        return reservation


async def _compute(loaded: Loaded, arrays: tuple[Array, ...], caller: Caller) -> Outcome:
    if not len(arrays[0]):
        return empty_outcome(loaded, arrays)
    item = new_item(loaded, arrays, caller)
    if caller.waits_for_room:
        await loaded.served.batcher.put(item)
    else:
        loaded.served.batcher.submit(item)
    return await item.done

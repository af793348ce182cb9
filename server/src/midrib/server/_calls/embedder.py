"""The steps of an embedding, the same for every protocol, for unary calls and for the items of streams.

`RequestEmbedder.open` finds the backbone and checks the options, `OpenCall.accept` reserves the bytes of one input, and
`AcceptedItem` reads the input, queues it and makes the embedding.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from midrib.server._admission.fair_quota import FairQuota
from midrib.server._admission.quotas import Limit, Quota, Reservation
from midrib.server._admission.tokens import Scope
from midrib.server._calls.requests import Caller, Openable, check_reply, empty_outcome, new_item, open_backbone, timing
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.description import ServedDescription
from midrib.server._engine.item import Outcome
from midrib.server._engine.served_backbone import ServedBackbone
from midrib.server._intake.media_input import Media, WireTensor, wire_tensor
from midrib.server._intake.options import apply_options, check_options
from midrib.server._large import beside_loop
from midrib.v1 import embedding_pb2
from midrib.wire import Array

# The bytes in flight of one backbone: a flood of small inputs must not fill the memory that the largest backbone needs.
# Of its largest items each replica computes one, one is staged, and two wait; small items may take some room more.
_LARGEST_ITEMS = 4
_ROOM_BYTES = 8 << 20

_Arrays: TypeAlias = tuple[Array, ...]
ItemInput: TypeAlias = embedding_pb2.Input | Media | WireTensor | Array | _Arrays
"""An input as it was sent, a tensor [rows, ...] that was read already, or the checked arrays of a gradient."""


class Embedded(NamedTuple):
    """The result of one item.

    by: the backbone that computed it.  inputs: [rows, ...], as given to its module.
    features: [rows, dimensions] after the caller's options were applied, or the input's gradient [rows, ...].
    """

    by: ServedDescription
    inputs: Array
    features: Array
    timing: embedding_pb2.Timing


class Tensors(NamedTuple):
    """The tensors of a Backward call.

    rows: the input, [rows, ...].  gradient: the gradient of its embedding, [rows, num_features].
    """

    rows: WireTensor
    gradient: WireTensor


class StreamQuota(NamedTuple):
    """The amounts that the items of one stream may hold."""

    items: Quota
    bytes: Quota


class RequestEmbedder:
    """Runs calls on the backbones of a catalogue, within a quota of bytes in flight, and a smaller one per backbone.

    calls: the number of calls so far.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.in_flight = FairQuota(catalogue.settings.max_in_flight_bytes)
        self.calls = 0
        self._of_backbones: WeakKeyDictionary[ServedBackbone, FairQuota] = WeakKeyDictionary()

    def quota_of(self, loaded: Loaded) -> FairQuota:
        """Return the quota of the bytes in flight of one backbone."""
        quota = self._of_backbones.get(loaded.served)
        if quota is None:
            limit = _LARGEST_ITEMS * loaded.served.replicas * loaded.intake.largest_item_bytes + _ROOM_BYTES
            quota = FairQuota(limit, what=f"bytes of backbone {loaded.served.description.name!r}")
            self._of_backbones[loaded.served] = quota
        return quota

    def open(self, request: Openable, caller: Caller) -> OpenCall:
        """Find the backbone of a call or a stream, and check its options.

        Raises BackboneNotFoundError, BackboneLoadingError, RevisionMismatchError, or InvalidInputError for options
        that the backbone cannot satisfy.
        """
        self.calls += 1
        options = embedding_pb2.Options() if isinstance(request, embedding_pb2.BackwardRequest) else request.options
        loaded = open_backbone(self.catalogue, request)
        check_options(options, loaded.served.description.num_features)
        return OpenCall(self, loaded, options, caller)

    async def embed(
        self, request: embedding_pb2.EmbedRequest, caller: Caller, *, source: ItemInput | None = None
    ) -> Embedded:
        """Return the embedding of one request.

        source: the input, if it was read apart from the request.
        Raises what `open`, `OpenCall.accept` and `AcceptedItem.embed` raise.
        """
        embedded, reservation = await self.embed_held(request, caller, source=source)
        reservation.release()
        return embedded

    async def embed_held(
        self, request: embedding_pb2.EmbedRequest, caller: Caller, *, source: ItemInput | None = None
    ) -> tuple[Embedded, Reservation]:
        """Do the same as `embed`, and return the item's reservation too: release it once the answer is written.

        source: the input, if it was read apart from the request.
        """
        call = self.open(request, caller)
        item = await call.accept(request.input if source is None else source)
        return await item.embed(), item.reservation

    async def embed_reserved(self, request: embedding_pb2.EmbedRequest, caller: Caller) -> Embedded:
        """Do the same as `embed` for a caller that has reserved the bytes of the item."""
        return await self.open(request, caller).accept_reserved(request.input).embed()

    async def gradient_held(
        self, request: embedding_pb2.BackwardRequest, caller: Caller, *, tensors: Tensors | None = None
    ) -> tuple[Embedded, Reservation]:
        """Return the gradient of an input, in the input's dtype, and its reservation; the forward pass runs again.

        tensors: the input and the gradient of the embedding, if they were read apart from the request.
        Raises InputKindError for an input of integers, and what `embed` raises.
        """
        call = self.open(request, caller)
        intake = call.loaded.intake
        source, gradient = tensors or Tensors(wire_tensor(request.input), wire_tensor(request.grad_embedding))
        size = len(source.data)
        rows = await beside_loop(size, lambda: intake.tensor(source, field="input"))
        intake.check_differentiable(rows)
        item = await call.accept((rows, intake.gradient(gradient, len(rows))))
        embedded = await item.embed()
        try:
            features = await beside_loop(size, lambda: embedded.features.astype(rows.dtype, copy=False))
        except BaseException:
            item.release()
            raise
        return embedded._replace(features=features), item.reservation


class OpenCall:
    """A call or a stream with its backbone.

    by: the backbone that computes the embeddings.  options: applied to every embedding.
    prompt: put before each text; None for the backbone's default.
    max_reply_bytes: the largest message that an embedding may fill.
    """

    __slots__ = ("_in_flight", "_of_backbone", "by", "caller", "loaded", "max_reply_bytes", "options", "prompt")

    def __init__(
        self, embedder: RequestEmbedder, loaded: Loaded, options: embedding_pb2.Options, caller: Caller
    ) -> None:
        self._in_flight = embedder.in_flight.share(caller.flow)
        self._of_backbone = embedder.quota_of(loaded).share(caller.flow)
        self.loaded = loaded
        self.by = loaded.served.description
        self.options = options
        self.prompt = loaded.intake.prompt(options)
        self.caller = caller
        self.max_reply_bytes = embedder.catalogue.settings.max_message_bytes

    async def accept(self, source: ItemInput, stream: StreamQuota | None = None) -> AcceptedItem:
        """Reserve the bytes of one input, before its media are decoded.

        stream: the quota of the stream that the item is part of.
        Raises OverloadedError if the quota is full and the caller does not wait for room; UnauthenticatedError or
        PermissionDeniedError if the token has been withdrawn since the call began.
        """
        arrived = time.monotonic()
        reservation = self._reservation(self._size(source), stream)
        if self.caller.waits_for_room:
            await reservation.acquire()
        else:
            reservation.acquire_nowait()
        return AcceptedItem(self, source, reservation, arrived)

    def accept_reserved(self, source: ItemInput) -> AcceptedItem:
        """Accept one input whose bytes the caller has reserved."""
        return AcceptedItem(self, source, Reservation(), time.monotonic())

    def _size(self, source: ItemInput) -> int:
        if isinstance(source, tuple):  # the gradient is as large as the input
            return sum(array.nbytes for array in (*source, source[0]))
        return self.loaded.intake.size(source)

    def _reservation(self, size: int, stream: StreamQuota | None) -> Reservation:
        tenant = self.caller.tenant
        amounts: list[tuple[Limit, int]] = []
        if tenant is not None:
            tenant.require(Scope.EMBED)
            amounts += tenant.amounts(size)
        if stream is not None:
            amounts += (stream.items, 1), (stream.bytes, size)
        return Reservation(*amounts, (self._of_backbone, size), (self._in_flight, size))


class AcceptedItem:
    """One input whose bytes are reserved, until `release`."""

    __slots__ = ("_arrived", "_call", "_inputs", "_source", "reservation")

    def __init__(self, call: OpenCall, source: ItemInput, reservation: Reservation, arrived: float) -> None:
        self._call = call
        self._source: ItemInput | None = source
        self.reservation = reservation
        self._arrived = arrived
        self._inputs: Array | None = None

    async def embed(self) -> Embedded:
        """Return the item's embedding. If that fails, the reservation is released.

        Raises InvalidInputError or LimitExceededError for an invalid input, OverloadedError for a full queue, and
        MidribError for a failed computation.
        """
        try:
            outcome = await (await self.queue())
            return await beside_loop(outcome.rows.nbytes, lambda: self.embedded(outcome))
        except BaseException:
            self.release()
            raise

    async def queue(self) -> asyncio.Future[Outcome]:
        """Read and check the input, and queue it. The future returns the outcome; cancelling it drops the item.

        Raises InvalidInputError or LimitExceededError for an invalid input, OverloadedError for a full queue.
        """
        call = self._call
        loaded = call.loaded
        source, self._source = self._source, None
        if isinstance(source, np.ndarray):
            # Without a check of the values only the layout is looked at, which is not worth a thread.
            size = source.nbytes if loaded.intake.checks_values else 0
            arrays: _Arrays = (await beside_loop(size, lambda: self._checked(source)),)
        else:
            arrays = await self._read(source)
        self._inputs = arrays[0]
        if len(arrays) == 1:
            check_reply(loaded, len(arrays[0]), call.options, call.max_reply_bytes)
        if not len(arrays[0]):
            return _done(empty_outcome(loaded, arrays))
        item = new_item(loaded, arrays, call.caller)
        if call.caller.waits_for_room:
            await loaded.served.batcher.put(item)
        else:
            loaded.served.batcher.submit(item)
        return item.done

    def embedded(self, outcome: Outcome) -> Embedded:
        """Return the embedding that the caller asked for, from the rows that were computed; called once.

        The item then no longer refers to its input: the answer may wait for its client for a long time.
        Raises RuntimeError if its input was not queued, or at the second call.
        """
        inputs, self._inputs = self._inputs, None
        if inputs is None:
            raise RuntimeError("an accepted item has one embedding, and its input must be queued first")
        rows = apply_options(outcome.rows, self._call.options)
        return Embedded(self._call.by, inputs, rows, timing(outcome, self._arrived))

    def release(self) -> None:
        """Release the bytes that the item holds."""
        self.reservation.release()

    def _checked(self, rows: Array) -> Array:
        intake = self._call.loaded.intake
        intake.check_promptless(self._call.prompt)
        return intake.checked(rows)

    async def _read(self, source: embedding_pb2.Input | Media | WireTensor | _Arrays | None) -> _Arrays:
        """Return the input as arrays [rows, ...]. Raises RuntimeError if it was already queued."""
        if isinstance(source, embedding_pb2.Input | Media | WireTensor):
            return (await self._call.loaded.intake.read(source, self._call.prompt),)
        if source is None:
            raise RuntimeError("an accepted item is queued once: accept its input again to compute it again")
        return source


def _done(outcome: Outcome) -> asyncio.Future[Outcome]:
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    future.set_result(outcome)
    return future

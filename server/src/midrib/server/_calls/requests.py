"""What unary calls and streams share: finding the backbone, making an item, telling the time."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from midrib.server._admission.tokens import Tenant
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.item import CURRENT_TRACE, Item, Outcome, Priority
from midrib.v1 import embedding_pb2
from midrib.wire import Array, LimitExceededError, RevisionMismatchError, code_from_dtype, dtype_from_code

# Bytes of a reply beside its embedding's data, at most: names, revision, timing.
_AROUND_EMBEDDING = 512
_WIDEST_ITEM = 8


class Caller(NamedTuple):
    """Who asks, and until when.

    flow: whose items these are; a busy device is shared out between flows.
    deadline: on time.monotonic, after which nobody waits.
    patient: waits for room, as a stream does, rather than be refused.
    priority: the flow's share of a busy device.
    tenant: whose token the call carries; None on a server without tokens.
    """

    flow: Hashable
    deadline: float | None = None
    waits_for_room: bool = False
    priority: Priority = Priority.INTERACTIVE
    tenant: Tenant | None = None


def open_backbone(
    catalogue: Catalogue,
    request: embedding_pb2.EmbedRequest | embedding_pb2.BackwardRequest | embedding_pb2.Open,
) -> Loaded:
    """The backbone that a request names.

    Raises BackboneNotFoundError, BackboneLoadingError, or RevisionMismatchError where it pins another revision.
    """
    loaded = catalogue.entry(request.backbone).ready()
    described = loaded.served.description
    if request.HasField("revision") and request.revision != described.revision:
        raise RevisionMismatchError(
            f"backbone {described.name!r} is at revision {described.revision[:12]}, the call pins "
            f"{request.revision[:12]}: connect again to accept the new one, and throw away what the old one made"
        )
    return loaded


def new_item(loaded: Loaded, arrays: tuple[Array, ...], caller: Caller) -> Item:
    """An item of these arrays, with its caller's deadline."""
    shape, cost = loaded.intake.bucket(arrays[0])
    return Item(
        arrays,
        bucket=(len(arrays), shape),
        cost=cost,
        flow=caller.flow,
        priority=caller.priority,
        deadline=caller.deadline,
        trace=CURRENT_TRACE.get(),
    )


def empty_outcome(loaded: Loaded, arrays: tuple[Array, ...]) -> Outcome:
    """What no rows come to, without a device: an embedding [0, num_features], or the empty gradient."""
    described = loaded.served.description
    dtype = dtype_from_code(code_from_dtype(described.dtype))
    rows = arrays[0] if len(arrays) > 1 else np.empty((0, described.num_features), dtype)
    return Outcome(rows, 0.0, 0.0)


def check_reply(loaded: Loaded, rows: int, options: embedding_pb2.Options, max_message_bytes: int) -> None:
    """An embedding that no message can carry is refused before a device makes it: raises LimitExceededError."""
    described = loaded.served.description
    width = options.dimensions if options.HasField("dimensions") else described.num_features
    room = max_message_bytes - _AROUND_EMBEDDING
    if rows * width * _WIDEST_ITEM <= room:
        return
    dtype = options.dtype if options.HasField("dtype") else code_from_dtype(described.dtype)
    size = rows * width * dtype_from_code(dtype).itemsize
    if size > room:
        raise LimitExceededError(
            f"the embedding of {rows} rows takes {size} bytes, a message carries at most {room}: split it, or ask for "
            "fewer dimensions or a narrower dtype",
            field="input",
        )


def timing(outcome: Outcome, arrived: float) -> embedding_pb2.Timing:
    """Where an item's time went; arrived on time.monotonic."""
    took = embedding_pb2.Timing()
    spans = ((took.queue, outcome.queue_s), (took.compute, outcome.compute_s), (took.total, time.monotonic() - arrived))
    for span, seconds in spans:
        span.seconds = whole = int(seconds)
        span.nanos = int((seconds - whole) * 1e9)
    return took

"""The parts of a call: its caller, its backbone, its item in the queue, and the checks and times of its reply."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import NamedTuple, TypeAlias

import numpy as np

from midrib.server._admission.tokens import Tenant
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._catalogue.loading import Loaded
from midrib.server._engine.item import CURRENT_TRACE, Item, Outcome, Priority
from midrib.server._shared_memory.memory import is_shared
from midrib.v1 import embedding_pb2
from midrib.wire import Array, LimitExceededError, RevisionMismatchError, code_from_dtype, dtype_from_code

Openable: TypeAlias = embedding_pb2.EmbedRequest | embedding_pb2.BackwardRequest | embedding_pb2.Open
"""A message that names a backbone and may pin its revision."""

# Bytes of a reply beside its embedding's data, at most: names, revision, timing.
_AROUND_EMBEDDING = 512
_WIDEST_ITEM = 8
# The least rows and bytes of an item that shares no batch. Joining it with others on a CPU would save nothing and cost
# a copy: alone, 64 images of a cheap backbone took 0.89 of the time. Worker processes wait between batches, so they
# gain more from large ones: there it took 1.06 to 1.17 of the time.
_MIN_ROWS_ALONE = 4
_MIN_BYTES_ALONE = 1 << 20


class Caller(NamedTuple):
    """The caller of a call or a stream.

    flow: a key for fair queueing; a busy device is shared between flows.
    deadline: seconds of time.monotonic; None if the caller waits without limit.
    waits_for_room: whether the caller waits for quota and queue, as streams do. Otherwise it is refused.
    priority: the flow's share of a busy device.
    tenant: the tenant of the call's token; None on a server without tokens.
    """

    flow: Hashable
    deadline: float | None = None
    waits_for_room: bool = False
    priority: Priority = Priority.INTERACTIVE
    tenant: Tenant | None = None


def open_backbone(catalogue: Catalogue, request: Openable) -> Loaded:
    """Return the backbone that a request names.

    Raises BackboneNotFoundError, BackboneLoadingError, or RevisionMismatchError if the request pins another revision.
    """
    loaded = catalogue.entry(request.backbone).ready()
    described = loaded.served.description
    if request.HasField("revision") and request.revision != described.revision:
        raise RevisionMismatchError(
            f"backbone {described.name!r} is at revision {described.revision[:12]}, the call pins "
            f"{request.revision[:12]}: connect again to accept the new one, and compute older embeddings again"
        )
    return loaded


def new_item(loaded: Loaded, arrays: tuple[Array, ...], caller: Caller) -> Item:
    """Return an item of these arrays [rows, ...] for the queue, with its caller's deadline.

    On a CPU, many rows in a client's memory make a batch without other items, because a thread computes it in place.
    """
    shape, cost = loaded.intake.bucket(arrays[0])
    shared = len(arrays[0]) >= _MIN_ROWS_ALONE and arrays[0].nbytes >= _MIN_BYTES_ALONE and is_shared(arrays[0])
    exclusive = shared and loaded.served.description.device == "cpu" and not loaded.worker_states()
    return Item(
        arrays,
        bucket=(len(arrays), shape, object() if exclusive else None),
        cost=cost,
        flow=caller.flow,
        priority=caller.priority,
        deadline=caller.deadline,
        trace=CURRENT_TRACE.get(),
    )


def empty_outcome(loaded: Loaded, arrays: tuple[Array, ...]) -> Outcome:
    """Return the result for no rows, computed without a device: [0, num_features], or the empty gradient."""
    described = loaded.served.description
    dtype = dtype_from_code(code_from_dtype(described.dtype))
    rows = arrays[0] if len(arrays) > 1 else np.empty((0, described.num_features), dtype)
    return Outcome(rows, 0.0, 0.0)


def check_reply(loaded: Loaded, rows: int, options: embedding_pb2.Options, max_message_bytes: int) -> None:
    """Raise LimitExceededError for an embedding that no message can carry, before a device computes it."""
    described = loaded.served.description
    room = max_message_bytes - _AROUND_EMBEDDING
    if rows * described.num_features * _WIDEST_ITEM <= room:
        return
    width = options.dimensions if options.HasField("dimensions") else described.num_features
    dtype = options.dtype if options.HasField("dtype") else code_from_dtype(described.dtype)
    size = rows * width * dtype_from_code(dtype).itemsize
    if size > room:
        raise LimitExceededError(
            f"the embedding of {rows} rows has {size} bytes, a message carries at most {room}: split it, or ask for "
            "fewer dimensions or a narrower dtype",
            field="input",
        )


def timing(outcome: Outcome, arrived: float) -> embedding_pb2.Timing:
    """Return how long an item waited, computed and took in total; arrived: seconds of time.monotonic."""
    message = embedding_pb2.Timing()
    total_s = time.monotonic() - arrived
    for span, seconds in (
        (message.queue, outcome.queue_s),
        (message.compute, outcome.compute_s),
        (message.total, total_s),
    ):
        if whole_s := int(seconds):
            span.seconds = whole_s
        span.nanos = int((seconds - whole_s) * 1e9)
    return message

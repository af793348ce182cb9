"""Who calls, read from the context of a gRPC call."""

from __future__ import annotations

import time
from collections.abc import Hashable

from midrib.server._admission.tokens import CURRENT_TENANT
from midrib.server._calls.requests import Caller
from midrib.server._engine.item import Priority
from midrib.server._grpc.errors import Context
from midrib.v1 import embedding_pb2

_PRIORITIES: dict[int, Priority] = {
    embedding_pb2.PRIORITY_TRAINING: Priority.TRAINING,
    embedding_pb2.PRIORITY_BULK: Priority.BULK,
}


def caller_of(
    context: Context,
    *,
    flow: Hashable = None,
    priority: embedding_pb2.Priority = embedding_pb2.PRIORITY_UNSPECIFIED,
) -> Caller:
    """The caller of a gRPC call, with the call's own deadline.

    All calls of a token are one flow; without tokens a flow is what is given, or else a connection.
    """
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    share = _PRIORITIES.get(priority, Priority.INTERACTIVE)
    tenant = CURRENT_TENANT.get()
    if tenant is not None:
        flow = tenant.name
    return Caller(flow if flow is not None else context.peer(), deadline, priority=share, tenant=tenant)

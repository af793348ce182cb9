"""How a call enters a replica: Ray's gRPC server accepts it, Ray counts it, and our services answer it.

Ray lists the servicer function below in its gRPC options, and calls it in every process that has such a server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2

from midrib.oip.v2 import inference_pb2
from midrib.ray.serve._router import BackboneRouter
from midrib.ray.serve._waiting import wait_for_replica
from midrib.server._grpc.hosted import HostedServices
from midrib.server._oip.registration import SERVICE_NAME as INFERENCE_SERVICE
from midrib.v1 import backbone_pb2, embedding_pb2

_PUBLIC_NAMES = {"midrib.oip.v2.GRPCInferenceService": INFERENCE_SERVICE}
METHODS = tuple(
    f"/{_PUBLIC_NAMES.get(service.full_name, service.full_name)}/{method.name}"
    for messages in (embedding_pb2, backbone_pb2, health_pb2, inference_pb2)
    for service in messages.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
"""The paths of the methods that a deployment serves."""


class IngressCall(NamedTuple):
    """A call that Ray's server has accepted.  method: its path."""

    method: str
    context: Any


CURRENT_CALL: ContextVar[IngressCall | None] = ContextVar("midrib_ray_call", default=None)
"""The call of the current task. Ray's own context lacks the deadline, and does not read or write."""

_HOSTED: list[HostedServices | BackboneRouter] = []


def host(*arguments: Any) -> HostedServices:
    """Return the services of this process, for `Server`; a process has one replica."""
    services = HostedServices(*arguments)
    _HOSTED[:] = [services]
    return services


def host_router(router: BackboneRouter) -> None:
    """Have a router answer the calls of this process."""
    _HOSTED[:] = [router]


def hosted() -> HostedServices | BackboneRouter | None:
    """Return the services or the router of this process; None without a replica, such as in the proxy of Ray."""
    return _HOSTED[0] if _HOSTED else None


def add_services(_servicer: object, server: Any) -> None:
    """Add our services to a server of Ray, which passes no servicer of ours: `HostedServices` answers."""
    server.add_generic_rpc_handlers((_Services(),))


class _Services(grpc.GenericRpcHandler):
    """Our methods, with Ray's handlers: Ray replaces the behaviours in `_method_handlers` by ones that count the call.

    The messages of all methods are raw bytes, in both directions: HostedServices reads and writes them.
    """

    def __init__(self) -> None:
        self._method_handlers: dict[str, Any] = dict.fromkeys(METHODS, grpc.stream_stream_rpc_method_handler(_unrouted))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, or None if it is not of these services."""
        method = handler_call_details.method
        if method not in self._method_handlers:
            return None
        if hosted() is None:
            return grpc.stream_stream_rpc_method_handler(_unrouted)
        return grpc.stream_stream_rpc_method_handler(partial(_through_ray, self._method_handlers[method], method))


async def _through_ray(handler: Any, method: str, requests: AsyncIterator[bytes], context: Any) -> None:
    """Have Ray count a call, and hand it to the replica, which writes the answer itself.

    Raises RuntimeError if the method returns a message to Ray.
    """
    CURRENT_CALL.set(IngressCall(method, context))
    async for _ in handler.stream_stream(requests, context):
        raise RuntimeError(f"{method} returned a message to Ray, expected that it writes all of them to its context")


async def _unrouted(_requests: AsyncIterator[bytes], context: Any) -> None:
    """Refuse a call that reached the proxy of Ray, because no replica is ready. Clients try again."""
    await wait_for_replica()
    await context.abort(grpc.StatusCode.UNAVAILABLE, "no replica is ready to take calls: try again")

"""Which deployment answers a call: the one that serves the backbone of its first message."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from midrib.oip.v2 import inference_pb2
from midrib.ray.serve._access import IngressAccess
from midrib.ray.serve._relay import Channels, relay, single_answer
from midrib.ray.serve._request_names import requested_name
from midrib.server._catalogue.names import not_served
from midrib.server._grpc.errors import abort
from midrib.wire import InvalidInputError, MidribError, UnavailableError

# The bytes of the answers of all deployments, joined, are one answer: its only field is a repeated one.
_OF_ALL = frozenset({"ListBackbones", "RepositoryIndex"})
# Calls about the service as a whole. Each deployment reports its state to Ray.
_OF_INGRESS = {
    "Check": health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING),
    "Watch": health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING),
    "ServerLive": inference_pb2.ServerLiveResponse(live=True),
    "ServerReady": inference_pb2.ServerReadyResponse(ready=True),
}


class BackboneRouter:
    """Passes each call on to a replica of the deployment that serves its backbone.

    Ray chooses the replica, counts the call at it, and lets the call end before it ends the replica.

    names: the application of each name and alias in the settings.  access: which callers are admitted.
    """

    def __init__(self, names: Mapping[str, str], access: IngressAccess) -> None:
        self._access = access
        self._names = dict(names)
        self._applications = tuple(dict.fromkeys(names.values()))
        self._handles: dict[str, Any] = {}
        self._learned = False
        self._channels = Channels()

    async def answer(self, method: str, context: Any) -> None:
        """Serve one call to its end.  method, context: as for `HostedServices`. Raises AbortError."""
        try:
            self._access.check(method, context.invocation_metadata() or ())
            await self._answer(method, context)
        except MidribError as error:
            await abort(context, error)

    async def _answer(self, method: str, context: Any) -> None:
        """Answer a call. A MidribError, such as InvalidInputError without a request, becomes its status."""
        first, last = await context.read(), method.rpartition("/")[2]
        if first is grpc.aio.EOF:
            raise InvalidInputError("the call ended without a request: send one message")
        name = requested_name(method, first)
        if last in _OF_ALL:
            await context.write(await self._answer_of_all(method, first, context))
        elif not name and last in _OF_INGRESS:
            await context.write(_OF_INGRESS[last].SerializeToString())
            if last == "Watch":
                await asyncio.Event().wait()  # until the caller leaves
        else:
            handle = await self._handle(await self._application(name) if name else self._applications[0])
            async with handle.choose_replica() as replica:
                await self._pass_on(replica.replica_metadata["address"], method, first, context)

    async def _pass_on(self, address: str, method: str, first: bytes, context: Any) -> None:
        try:
            await relay(self._channels.to(address), method, first, context)
        finally:
            if context.code() == grpc.StatusCode.UNAVAILABLE:
                self._channels.forget(address)

    async def _answer_of_all(self, method: str, request: bytes, context: Any) -> bytes:
        """Return the answers of a replica of each deployment, as one message."""
        # Each waits for a replica. None may read the context once the call has ended: grpcio has freed its headers.
        answers = [
            asyncio.ensure_future(self._answer_of_one(application, method, request, context))
            for application in self._applications
        ]
        try:
            parts = await asyncio.gather(*answers)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        finally:
            for answer in answers:
                answer.cancel()
        return b"".join(parts)

    async def _answer_of_one(self, application: str, method: str, request: bytes, context: Any) -> bytes:
        handle = await self._handle(application)
        async with handle.choose_replica() as replica:
            channel = self._channels.to(replica.replica_metadata["address"])
            return await single_answer(channel, method, request, context)

    async def _handle(self, application: str) -> Any:
        """Return Ray's handle of an application. Raises UnavailableError if it is not deployed yet."""
        if application not in self._handles:
            from ray import serve
            from ray.serve.exceptions import RayServeException

            try:
                self._handles[application] = await asyncio.to_thread(serve.get_app_handle, application)
            except RayServeException as error:
                raise UnavailableError(f"{application} is not deployed yet: try again shortly") from error
        return self._handles[application]

    async def _application(self, requested: str) -> str:
        """Return the application that serves a name: `namespace/name`, an alias, or a name that only one of them has.

        Raises BackboneNotFoundError.
        """
        name = requested.partition("@")[0]
        if name not in self._names and not self._learned:
            await self._learn_names()
        matches = {self._names[name]} if name in self._names else self._with_last_part(name)
        if len(matches) != 1:
            raise not_served(name, self._names)
        return matches.pop()

    def _with_last_part(self, name: str) -> set[str]:
        """Return the applications of backbones whose name ends with this one, after a slash."""
        return {application for served, application in self._names.items() if served.endswith("/" + name)}

    async def _learn_names(self) -> None:
        """Ask each deployment for the names that it serves: the settings may have short ones."""
        handles = [await self._handle(application) for application in self._applications]
        names = await asyncio.gather(*(handle.names.remote() for handle in handles))
        for application, served in zip(self._applications, names, strict=True):
            self._names.update(dict.fromkeys(served, application))
        self._learned = True

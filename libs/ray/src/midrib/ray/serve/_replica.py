"""The classes of the deployments: replicas that run the unchanged server, and replicas that pass calls on to those."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from midrib.ray.serve._access import IngressAccess
from midrib.ray.serve._ingress import CURRENT_CALL, METHODS, host, host_router, hosted
from midrib.ray.serve._options import check_environment
from midrib.ray.serve._router import BackboneRouter
from midrib.ray.serve._watches import serve_watch
from midrib.server import Server, Settings
from midrib.server._observability.load import LoadMeter


class BackboneReplica:
    """Serves the backbones of its settings. Ray constructs it in each replica's process.

    settings: the fields of Settings.  The methods of our services are added below.
    Raises the errors of loading, and RuntimeError if Ray Serve was started without the variables of `up`.
    """

    async def __init__(self, settings: dict[str, Any]) -> None:  # type: ignore[misc] # Ray waits for it
        check_environment()
        self.longest_watch_s = float(settings["max_stream_age_s"])
        self._server = self._new_server(settings)
        await self._server.start()
        await self._server.load()
        self._meter = LoadMeter(self._server.catalogue.served)

    def _new_server(self, settings: dict[str, Any]) -> Server:
        return Server(Settings(**settings), new_grpc_server=host)

    async def check_health(self) -> None:
        """Read the tokens again: Ray calls this every ten seconds, and no signal reaches a replica.

        Raises RuntimeError if a backbone cannot be served any more: Ray then replaces the replica.
        """
        self._server.reload()
        if not self._server.catalogue.ready:
            states = {entry.name: entry.state.name for entry in self._server.catalogue.entries.values()}
            raise RuntimeError(f"expected that every backbone is ready, got {states}")

    async def ready(self) -> None:
        """Do nothing: Ray calls this on a replica that takes calls, for `wait_for_replica`."""

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load since the last call, for `by_device_time`."""
        return self._meter.read()._asdict()

    async def __del__(self) -> None:
        """End the server. Ray calls it once the calls of the replica have ended."""
        await self._server.stop(grace_s=1.0)


class BehindIngressReplica(BackboneReplica):
    """Serves backbones on a free port of its node, for the replicas of `IngressReplica`.

    digest: the digest of its deployment's settings and options.
    """

    async def __init__(self, settings: dict[str, Any], digest: str) -> None:  # type: ignore[misc] # Ray waits for it
        self._digest = digest
        await super().__init__(settings)

    async def digest(self) -> str:
        """Return the digest, by which `up` tells whether the deployment has changed."""
        return self._digest

    def _new_server(self, settings: dict[str, Any]) -> Server:
        import ray

        return Server(Settings(**{**settings, "host": ray.util.get_node_ip_address(), "port": 0}))

    async def record_replica_metadata(self) -> dict[str, str]:
        """Return the server's address, which Ray hands to the process that chooses this replica."""
        return {"address": self._server.address}

    async def names(self) -> list[str]:
        """Return the names and aliases of the backbones."""
        return [*self._server.catalogue.entries, *self._server.catalogue.aliases]


class IngressReplica:
    """Takes all calls if there are several deployments, and has `BackboneRouter` pass them on.

    applications: the backbones' applications, by their names and aliases.  digest: the digest of its deployment.
    settings: the fields of Settings, for the tokens, health and the age of streams.
    """

    def __init__(self, applications: dict[str, str], digest: str, settings: dict[str, Any]) -> None:
        check_environment()
        self._digest = digest
        self.longest_watch_s = float(settings["max_stream_age_s"])
        tokens = settings["tokens"]
        self._access = IngressAccess(None if tokens is None else Path(tokens), public_health=settings["public_health"])
        host_router(BackboneRouter(applications, self._access))

    async def check_health(self) -> None:
        """Read the tokens again: Ray calls this every ten seconds, and no signal reaches a replica."""
        self._access.reload()

    async def digest(self) -> str:
        """Return the digest, by which `up` tells whether the deployment has changed."""
        return self._digest

    async def ready(self) -> None:
        """Do nothing: Ray calls this on a replica that takes calls, for `wait_for_replica`."""


def _answer(path: str) -> Callable[..., AsyncIterator[Any]]:
    """Return a method that answers the current call. It yields nothing: the answers go to the call's context."""

    async def answer(self: BackboneReplica | IngressReplica, _requests: Any) -> AsyncIterator[Any]:
        """Answer the current call. Raises RuntimeError if it came from a handle of Ray."""
        call, services = CURRENT_CALL.get(), hosted()
        if call is None or services is None:
            raise RuntimeError(f"{path} came from a handle of Ray: call the gRPC port of Serve instead")
        work = services.answer(call.method, call.context)
        if call.method.endswith("/Watch"):
            work = serve_watch(work, call.context, longest_s=self.longest_watch_s)
        with contextlib.suppress(grpc.aio.AbortError):  # the status is sent; Ray would log a failure of the replica
            await work
        return
        yield  # Ray expects an asynchronous generator of a method that streams

    return answer


for _path in METHODS:
    for _class in (BackboneReplica, IngressReplica):
        setattr(_class, _path.rpartition("/")[2], _answer(_path))

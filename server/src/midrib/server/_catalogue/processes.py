"""Have worker processes load and compute a backbone, from the server's process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from midrib.registry import AbstractRegistry
from midrib.server._catalogue.info import ServingInfo
from midrib.server._settings import BackboneSettings, Settings
from midrib.server._worker import launch
from midrib.server._worker.process import WorkerSpec
from midrib.server._worker.replica import ReadyWorker, ReplicaGroup, WorkerReplica
from midrib.server._worker.shared_buffer import SharedBuffer, new_shared_buffer
from midrib.server._worker.supervision import SharedPlan, Supervisor, WorkerState

_ENTRY_MODULE = "midrib.server._catalogue.worker_entry"
_ENTRY = f"{_ENTRY_MODULE}:open_backbone"
_LEAST_MAX_BATCH_S = 30.0
# A batch may take this many times the estimate of the largest one: the machine may be busy, texts may be long.
_MAX_SLOWDOWN = 20.0


class NotImportableError(LookupError):
    """A fresh process does not find the registered loader."""


@dataclass
class ReplicaWorkers:
    """The workers of one replica: the first one, and those of the replicas that take its place.

    group: all replicas of the backbone.  weights: the memory that their workers share.
    first: a supervisor whose worker has loaded already; used once.  supervisor: the last one that was started.
    """

    spec: WorkerSpec
    plan: SharedPlan
    group: ReplicaGroup
    weights: SharedBuffer
    max_batch_s: float | None
    first: Supervisor | None = None
    supervisor: Supervisor | None = None

    def start(self) -> ReadyWorker:
        """Start a worker, or take the first one, and make it ready. Raises the errors of loading and preparing."""
        self.supervisor = supervisor = self.first or Supervisor(self.spec, self.plan)
        self.first = None
        try:
            prepared = supervisor.prepare()
        except BaseException:
            supervisor.close()
            raise
        limit_s = self.max_batch_s or max(_LEAST_MAX_BATCH_S, _MAX_SLOWDOWN * prepared.batch_s)
        return ReadyWorker(supervisor, prepared, limit_s)

    def replica(self, name: str) -> WorkerReplica:
        """Return the replica, which is to be started."""
        return WorkerReplica(self.start, self.group, name=name)


@dataclass(frozen=True)
class HostedInProcesses:
    """A backbone that a first worker has loaded.

    workers: those of each replica.  plans: the plan of each device.  weights: the memory that the workers share.
    """

    info: ServingInfo
    workers: list[ReplicaWorkers]
    plans: list[SharedPlan]
    weights: SharedBuffer

    def restarts(self) -> int:
        """Return how many workers have been replaced."""
        return sum(plan.restarts for plan in self.plans)

    def states(self) -> list[WorkerState]:
        """Return the state of each replica's process."""
        return [workers.supervisor.state() for workers in self.workers if workers.supervisor is not None]

    def discard(self) -> None:
        """End the first worker if no replica has started with it."""
        first, self.workers[0].first = self.workers[0].first, None
        if first is not None:
            first.close()


def start_forking() -> None:
    """Start the process that forks workers, unless it runs. It imports torch, which takes more than a second."""
    launch.start_forking(_ENTRY_MODULE)


def host_in_processes(requested: BackboneSettings, settings: Settings, registry: AbstractRegistry) -> HostedInProcesses:
    """Load a backbone in a worker process; the other replicas' workers start with their replicas.

    Raises NotImportableError if a fresh process does not find the loader, WorkerDiedError if the process ended while
    loading, and the errors of the loader.
    """
    weights = new_shared_buffer()
    request = {**_request(requested, settings, registry), "weights": weights.descriptor}
    spec = WorkerSpec(requested.name, _ENTRY, request, (weights.descriptor,), settings.max_load_s)
    plan = SharedPlan()
    first = Supervisor(spec, plan)
    try:
        info: ServingInfo = first.load()
    except BaseException:
        first.close()
        raise
    replicas, group = requested.replicas or settings.replicas, ReplicaGroup()
    plans = [plan, *(SharedPlan() for _ in info.devices[1:])]
    workers = [
        ReplicaWorkers(_on_device(spec, index), plans[index], group, weights, settings.max_batch_s)
        for index in range(len(info.devices))
        for _ in range(replicas)
    ]
    workers[0].first = first
    return HostedInProcesses(info, workers, plans, weights)


def loader_path(fn: Any) -> list[str]:
    """Return the module and the qualified name of a loader, which tell whether two processes mean the same one."""
    while isinstance(fn, partial):
        fn = fn.func
    return [getattr(fn, "__module__", None) or "", getattr(fn, "__qualname__", "")]


def _request(requested: BackboneSettings, settings: Settings, registry: AbstractRegistry) -> dict[str, Any]:
    """Return the request to load in a fresh process. Raises NotImportableError for a loader that it cannot import."""
    loader = loader_path(registry.get(requested.name, with_metadata=True).fn)
    if loader[0] in ("", "__main__") or "<locals>" in loader[1]:
        raise NotImportableError(f"its loader {'.'.join(loader)} is not defined in a module that can be imported")
    request = {
        "imports": [*settings.imports, loader[0]],
        "registry": _path_of(registry),
        "loader": loader,
        "backbone": requested.model_dump(),
        "settings": settings.model_dump(mode="json", exclude={"backbones"}),
        "device": 0,
    }
    try:
        return dict(json.loads(json.dumps(request)))
    except TypeError as error:
        raise NotImportableError(f"its arguments cannot be sent to a process: {error}") from error


def _path_of(registry: AbstractRegistry) -> list[str]:
    """Return the module and the name of a registry that a fresh process can import.

    Raises NotImportableError for another registry.
    """
    for name, module in list(sys.modules.items()):
        if name == "__main__" or getattr(module, "__spec__", None) is None:
            continue
        for attribute, value in list(vars(module).items()):
            if value is registry:
                return [name, attribute]
    raise NotImportableError(f"the registry {registry.name!r} is not in a module that can be imported")


def _on_device(spec: WorkerSpec, index: int) -> WorkerSpec:
    return replace(spec, request={**spec.request, "device": index})

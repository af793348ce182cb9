"""Load a registered backbone, in this process or in workers, and prepare it for serving."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from midrib.backbones import Backbone
from midrib.registry import AbstractRegistry, InputSpec, TextInput
from midrib.server._catalogue.info import ServingInfo, batch_limits
from midrib.server._catalogue.processes import NotImportableError, host_in_processes
from midrib.server._engine.compute import BatchRunner, Compute, WorkerPlan
from midrib.server._engine.description import ServedDescription
from midrib.server._engine.served_backbone import ServedBackbone
from midrib.server._intake.intake import Intake
from midrib.server._intake.media import MediaPool
from midrib.server._settings import BackboneSettings, Settings
from midrib.server._worker.replica import ReplicaGroup
from midrib.server._worker.supervision import SharedPlan, WorkerState
from midrib.wire import UnavailableError

if TYPE_CHECKING:
    from torch import nn

    from midrib.server._catalogue.device_setup import DeviceSetup

logger = logging.getLogger(__name__)

# The length that counts for a row of any length, such as audio, in the limit on rows.
_NOMINAL_LENGTH = 16_000


@dataclass(frozen=True)
class Loaded:
    """A backbone ready to take items.

    plans: the compute plan of each device, once it is measured.  weight_bytes: the size of its parameters and buffers
    on each device.  pinned: never unloaded to make room.  discard: frees the resources of a load that is not started.
    worker_states: returns the states of its replicas' processes; none if the replicas are threads.
    """

    served: ServedBackbone
    intake: Intake
    plans: Sequence[DeviceSetup | SharedPlan]
    weight_bytes: int
    pinned: bool
    discard: Callable[[], None]
    worker_states: Callable[[], Sequence[WorkerState]]

    @property
    def plan(self) -> WorkerPlan | None:
        """The fastest measured plan; None on a GPU, which needs no plan."""
        return self.plans[0].worker_plan

    def use_plan(self, plan: WorkerPlan) -> None:
        """Have workers that are started from now on compute by a plan."""
        for shared in self.plans:
            if isinstance(shared, SharedPlan):
                shared.worker_plan = plan


@dataclass(frozen=True)
class _Hosted:
    """A loaded module, in this process or in workers, and how to make its replicas.

    backbone: prepares media; its module is a stand-in if a worker holds the real one.
    """

    info: ServingInfo
    backbone: Backbone
    plans: Sequence[DeviceSetup | SharedPlan]
    compute_factories: Sequence[Callable[[], Compute]] = ()
    replica_factories: Sequence[Callable[[str], BatchRunner]] = ()
    discard: Callable[[], None] = lambda: None
    restarts: Callable[[], int] = lambda: 0
    group: ReplicaGroup | None = None
    worker_states: Callable[[], Sequence[WorkerState]] = tuple


def load(requested: BackboneSettings, settings: Settings, registry: AbstractRegistry, pool: MediaPool) -> Loaded:
    """Load a registered backbone and prepare its replicas; slow, so never call it on the event loop.

    Raises any error of the registry and of the loader, ValueError for a device that does not exist, WorkerDiedError if
    a worker process ended while loading.
    """
    hosted = _host(requested, settings, registry)
    registered = registry.describe(requested.name)
    info, limits = hosted.info, batch_limits(settings)
    intake = Intake(
        hosted.backbone,
        pool,
        max_rows=limits.rows_of(_row_elements(info.input)),
        max_elements=limits.max_cost,
        ids=info.ids,
        finite=bool(registered.metadata.get("finite", False)),
    )
    served = ServedBackbone(
        _description(info, registered.license or ""),
        hosted.compute_factories,
        limits,
        replica_factories=hosted.replica_factories,
    )
    served.worker_restarts = hosted.restarts
    if hosted.group is not None:
        _listen(hosted.group, served)
    weight_bytes = info.weight_bytes
    return Loaded(served, intake, hosted.plans, weight_bytes, requested.pinned, hosted.discard, hosted.worker_states)


def _description(info: ServingInfo, license_name: str) -> ServedDescription:
    return ServedDescription(
        name=info.name,
        revision=info.revision,
        num_features=info.num_features,
        input=info.input,
        device=", ".join(info.devices),
        dtype=info.dtype,
        license=license_name,
    )


def _listen(group: ReplicaGroup, served: ServedBackbone) -> None:
    group.on_lost = partial(_give_up, served)
    group.on_change = lambda: served.on_workers()
    served.has_workers = lambda: group.running() is not None
    served.batcher.starts_at = group.starts_at


def _give_up(served: ServedBackbone) -> None:
    """End a backbone whose workers cannot be replaced, also if nothing is queued for it."""
    served.abort(UnavailableError("the workers were lost and could not be replaced: try another server"))
    served.on_lost()


def _host(requested: BackboneSettings, settings: Settings, registry: AbstractRegistry) -> _Hosted:
    if settings.workers == "process":
        try:
            return _in_processes(requested, settings, registry)
        except NotImportableError as reason:
            logger.warning("backbone %s computes in a thread of the server: %s", requested.name, reason)
    return _in_threads(requested, settings, registry)


def _in_threads(requested: BackboneSettings, settings: Settings, registry: AbstractRegistry) -> _Hosted:

    from midrib.server._catalogue.local import load_local  # torch, which the server imports for this only

    local = load_local(requested, settings, registry)
    replicas = requested.replicas or settings.replicas
    factories: list[Callable[[], Compute]] = [setup.prepare for setup in local.device_setups for _ in range(replicas)]
    return _Hosted(local.info(), local.backbone, local.device_setups, factories)


def _in_processes(requested: BackboneSettings, settings: Settings, registry: AbstractRegistry) -> _Hosted:
    hosted = host_in_processes(requested, settings, registry)
    info = hosted.info
    module = cast("nn.Module", _ModuleElsewhere(info.tokenizer))
    backbone = Backbone(info.name, module, info.num_features, info.input)
    return _Hosted(
        info,
        backbone,
        hosted.plans,
        replica_factories=[workers.replica for workers in hosted.workers],
        discard=hosted.discard,
        restarts=hosted.restarts,
        worker_states=hosted.states,
        group=hosted.workers[0].group,
    )


@dataclass(frozen=True)
class _ModuleElsewhere:
    """The part of a text module that prepares texts; a worker process holds the module."""

    tokenizer: Any


def _row_elements(spec: InputSpec) -> int:
    """Return the elements of one row. An open length counts as the longest allowed, or else as a nominal length."""
    longest = spec.max_tokens if isinstance(spec, TextInput) else _NOMINAL_LENGTH
    return int(np.prod([longest if size is None else size for size in spec.tensor.shape], dtype=np.int64))

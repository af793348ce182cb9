"""Run by a worker process: find a registered backbone, load it and make it ready."""

from __future__ import annotations

import copy
import importlib
import pickle
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from midrib.backbones import keep_freed_memory, release_freed_memory
from midrib.registry import AbstractRegistry
from midrib.server._calibration.parity import parity_reference
from midrib.server._calibration.plan import ComputePlan
from midrib.server._catalogue.device_setup import CalibratedForward, DeviceSetup
from midrib.server._catalogue.info import ServingInfo, batch_limits
from midrib.server._catalogue.local import load_local
from midrib.server._catalogue.processes import NotImportableError, loader_path
from midrib.server._catalogue.shared_weights import share_weights
from midrib.server._compute.batches import LaunchedBatch, to_numpy
from midrib.server._compute.devices import Pending, available_devices
from midrib.server._compute.examples import example_rows
from midrib.server._compute.forward import Forward
from midrib.server._compute.page_locks import PageLocks
from midrib.server._engine.buckets import elements
from midrib.server._engine.compute import Arrays
from midrib.server._errors import text_of
from midrib.server._settings import BackboneSettings, Settings
from midrib.server._shared_memory.memory import is_shared
from midrib.server._worker.loop import Bound
from midrib.server._worker.messages import Prepared
from midrib.wire import Array


@dataclass(frozen=True)
class HostedBackbone:
    """The backbone of this worker. Implements `midrib.server._worker.loop.Hosted`."""

    info: ServingInfo
    setup: DeviceSetup
    settings: Settings

    def prepare(self, plan: dict[str, Any] | None) -> tuple[_CalibratedPasses, Prepared]:
        """Return the passes, calibrated, warm and proved. Raises ParityError as `DeviceSetup.prepare` does."""
        self.setup.plan = None if plan is None else ComputePlan(**plan)
        forward = self.setup.compute()
        rows = batch_limits(self.settings).rows_of(elements(example_rows(forward.spec, 1).shape))
        prepared = Prepared(
            depth=forward.depth,
            dtypes=forward.staged_dtypes,
            width=self.info.num_features,
            batch_s=rows * _pass_s(forward),
            plan=self.setup.worker_plan,
        )
        return _CalibratedPasses(forward, self.setup), prepared


class _ForwardPasses:
    """The passes of a replica."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._in_place = forward.torch_device.type == "cpu" and not forward.strict
        self._page_locks = PageLocks() if forward.device.pinned and not forward.strict else None
        self._example = example_rows(forward.spec, 1)

    def bind(self, arrays: Arrays) -> Bound:
        """Return a pass over these arrays [rows, ...].

        Arrays in a client's memory are copied if the module writes to its input.
        """
        if is_shared(arrays[0]):
            return _Staged(self._forward, arrays)
        if self._in_place or (self._page_locks is not None and self._page_locks.lock(arrays[0])):
            return _InPlace(self._forward, arrays)
        return _Staged(self._forward, arrays)

    def probe(self) -> object:
        """Compute an example of one row. Raises the errors of the module."""
        return self._forward([(self._example,)])


class _CalibratedPasses(_ForwardPasses):
    """The passes of a replica by a compute plan. Implements `midrib.server._worker.loop.Passes`."""

    def __init__(self, forward: Forward, setup: DeviceSetup) -> None:
        super().__init__(forward)
        calibrated = CalibratedForward(setup, forward)
        self.measure_again, self.use_plan = calibrated.measure_again, calibrated.use_plan


class _InPlace:
    """A pass over arrays without a copy on the host: a GPU copies from their page-locked memory.

    Implements `midrib.server._worker.loop.Bound`.
    """

    def __init__(self, forward: Forward, arrays: Arrays) -> None:
        self._forward = forward
        self._arrays = arrays

    def launch(self) -> _PendingRows:
        """Start, with new tensors: the module may have transposed those of the last pass, or moved their memory."""
        pending = self._forward.launch_in_place([torch.from_numpy(array) for array in self._arrays])
        return _PendingRows(pending, pending.ready)


@dataclass
class _PendingRows:
    """Implements `midrib.server._worker.loop.Running`."""

    pending: Pending
    ready: bool

    def rows(self) -> Array:
        """Wait for the rows [rows, num_features]."""
        return to_numpy(self.pending.wait())


class _Staged:
    """A pass that copies the arrays first: row by row in strict mode, and a client's if the module writes to them."""

    def __init__(self, forward: Forward, arrays: Arrays) -> None:
        self._forward = forward
        self._arrays = arrays

    def launch(self) -> _LaunchedRows:
        """Start it."""
        launched = self._forward.stage([self._arrays]).launch()
        return _LaunchedRows(launched, launched.ready)


@dataclass
class _LaunchedRows:
    """Implements `midrib.server._worker.loop.Running`."""

    launched: LaunchedBatch
    ready: bool

    def rows(self) -> Array:
        """Wait for the rows [rows, num_features]."""
        (rows,) = self.launched.finish()
        return rows


def open_backbone(request: dict[str, Any]) -> HostedBackbone:
    """Load the requested backbone.

    request: backbone and settings, as their fields; registry and loader, as `processes.loader_path` gives them;
    device: the index of its device among those that the settings mean.  weights: a descriptor for `share_weights`.
    Raises NotImportableError if the loader is not found here or its tokenizer cannot be sent to the server's process,
    and the errors of the loader.
    """
    keep_freed_memory()  # a convolutional network takes up to twice as long otherwise
    settings = Settings(**request["settings"])
    requested = BackboneSettings(**request["backbone"])
    registry = _registry(request["imports"], request["registry"])
    _check_loader(registry, requested.name, request["loader"])
    devices = available_devices(requested.device or settings.device)
    local = load_local(requested.model_copy(update={"device": devices[request["device"]]}), settings, registry)
    info, setup = local.info(), local.device_setups[0]
    _check_tokenizer(info)
    _share_weights(setup, request["weights"])
    return HostedBackbone(_with_devices(info, devices), setup, settings)


def _share_weights(setup: DeviceSetup, descriptor: int) -> None:
    """Share the weights in the dtype that the CPU computes in, which leaves nothing for `Forward` to convert.

    The rows for the parity check are computed again if the weights are those of another worker.
    """
    narrow = setup.config.device == "cpu" and setup.config.dtype != "float32"
    if narrow:
        setup.module.to(getattr(torch, setup.config.dtype))
    if share_weights(setup.module, descriptor):
        module = copy.deepcopy(setup.module).to(torch.float32) if narrow else setup.module
        setup.reference = parity_reference(replace(setup.backbone, module=module))
    release_freed_memory()


def _with_devices(info: ServingInfo, devices: list[str]) -> ServingInfo:
    return ServingInfo(**{**vars(info), "devices": tuple(devices)})


def _registry(imports: list[str], path: list[str]) -> AbstractRegistry:
    """Import the registry. Raises NotImportableError if this process cannot."""
    try:
        for module in imports:
            importlib.import_module(module)
        registry = getattr(importlib.import_module(path[0]), path[1])
    except Exception as error:
        problem = f"{type(error).__name__}: {text_of(error)}"
        raise NotImportableError(f"a fresh process cannot import it: {problem}") from error
    if not isinstance(registry, AbstractRegistry):
        raise NotImportableError(f"{':'.join(path)} is {type(registry).__name__} in a fresh process, not a registry")
    return registry


def _check_loader(registry: AbstractRegistry, name: str, loader: list[str]) -> None:
    """Raise NotImportableError if the name has another loader in this process."""
    try:
        actual = loader_path(registry.get(name, with_metadata=True).fn)
    except KeyError as error:
        raise NotImportableError(f"{name!r} is not registered in a fresh process") from error
    if actual != loader:
        raise NotImportableError(f"{name!r} is {'.'.join(actual)} in a fresh process, not {'.'.join(loader)}")


def _check_tokenizer(info: ServingInfo) -> None:
    """Raise NotImportableError if the tokenizer, which works in the server's process, cannot be sent there."""
    try:
        pickle.dumps(info.tokenizer)
    except Exception as error:  # pickling runs the tokenizer's code
        raise NotImportableError(
            f"its tokenizer cannot be pickled: {type(error).__name__}: {text_of(error)}"
        ) from error


def _pass_s(forward: Forward) -> float:
    """Return the seconds of a pass over one row."""
    started = time.perf_counter()
    forward([(example_rows(forward.spec, 1),)])
    return time.perf_counter() - started

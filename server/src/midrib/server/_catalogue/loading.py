"""From a registered name to a backbone that is about to serve."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from midrib.backbones import Backbone, load_backbone
from midrib.registry import AbstractRegistry, TextInput
from midrib.server._calibration.parity import parity_reference
from midrib.server._calibration.plan import ComputePlan
from midrib.server._calibration.threads import thread_counts
from midrib.server._catalogue.device_setup import DeviceSetup, WarmUpConfig
from midrib.server._compute.forward import ComputeConfig, available_devices, use_tf32
from midrib.server._engine.batcher import BatchLimits
from midrib.server._engine.served_backbone import Description, ServedBackbone
from midrib.server._intake.intake import Intake
from midrib.server._intake.media import MediaPool
from midrib.server._settings import BackboneSettings, Settings

# What a row of an open length (audio, say) is taken for when rows are counted.
_NOMINAL_LENGTH = 16_000


@dataclass(frozen=True)
class Loaded:
    """A backbone ready to take items.

    seats: its place on each of its devices.  weight_bytes: of its parameters and buffers, on each of them.
    pinned: never leaves to make room.
    """

    served: ServedBackbone
    intake: Intake
    device_setups: Sequence[DeviceSetup]
    weight_bytes: int
    pinned: bool

    @property
    def plan(self) -> ComputePlan | None:
        """How it was found to compute fastest; None on a GPU, where nothing is chosen."""
        return self.device_setups[0].plan


def load(wanted: BackboneSettings, settings: Settings, registry: AbstractRegistry, pool: MediaPool) -> Loaded:
    """Load a registered backbone and lay out its replicas; slow, so never call it on the event loop.

    Raises what the registry and the loader raise, and ValueError for a device that is not there.
    """
    backbone = load_backbone(wanted.name, registry=registry, **wanted.arguments)
    registered = registry.describe(wanted.name)
    use_tf32(settings.tf32)
    limits = _limits(settings)
    device_setups = list(_device_setups(backbone, wanted, settings, limits))
    dtype = device_setups[0].config.dtype
    description = Description(
        name=backbone.name,
        revision=backbone.revision(dtype),
        num_features=backbone.num_features,
        input=backbone.input,
        device=", ".join(setup.config.device for setup in device_setups),
        dtype=dtype,
        license=registered.license or "",
    )
    intake = Intake(
        backbone,
        pool,
        max_rows=limits.rows_of(_row_elements(backbone)),
        max_elements=limits.max_cost,
        last_id=_last_id(backbone.module),
        finite=bool(registered.metadata.get("finite", False)),
    )
    replicas = wanted.replicas or settings.replicas
    served = ServedBackbone(description, [setup.prepare for setup in device_setups for _ in range(replicas)], limits)
    return Loaded(served, intake, device_setups, _weight_bytes(backbone.module, dtype), wanted.pinned)


def _limits(settings: Settings) -> BatchLimits:
    return BatchLimits(
        max_rows=settings.max_batch_rows,
        max_cost=settings.max_batch_elements,
        max_queue_items=settings.max_queue_items,
        max_queue_cost=4 * settings.max_batch_elements,
        max_delay_s=settings.max_delay_ms / 1000,
    )


def _device_setups(
    backbone: Backbone, wanted: BackboneSettings, settings: Settings, limits: BatchLimits
) -> Iterator[DeviceSetup]:
    """One for each device, with a copy of the module of its own."""
    reference = parity_reference(backbone)
    devices = available_devices(wanted.device or settings.device)
    replicas = wanted.replicas or settings.replicas
    threads = wanted.threads or settings.threads
    for device, module in zip(devices, _copies(backbone.module, len(devices)), strict=True):
        config = ComputeConfig(
            device=device,
            dtype=wanted.dtype or settings.dtype,
            strict=settings.strict if wanted.strict is None else wanted.strict,
            compile=wanted.compile or settings.compile,
            graphs=settings.cuda_graphs if wanted.cuda_graphs is None else wanted.cuda_graphs,
        )
        warm_up_config = WarmUpConfig(limits, settings.warm_up_s, [threads] if threads else thread_counts(replicas))
        yield DeviceSetup(backbone, module, config, reference, warm_up_config, tf32=settings.tf32)


def _last_id(module: nn.Module) -> int | None:
    """The largest token id that a text module looks up: its largest table is its vocabulary.

    A tokeniser's `shift` moves the ids, where a network's own 0 is no padding.
    """
    tables = [one.num_embeddings for one in module.modules() if isinstance(one, nn.Embedding)]
    return max(tables) - 1 + getattr(getattr(module, "tokenizer", None), "shift", 0) if tables else None


def _weight_bytes(module: nn.Module, dtype: str) -> int:
    floating = getattr(torch, dtype).itemsize
    weights = itertools.chain(module.parameters(), module.buffers())
    return sum(one.numel() * (floating if one.is_floating_point() else one.element_size()) for one in weights)


def _copies(module: nn.Module, count: int) -> list[nn.Module]:
    return [module, *(copy.deepcopy(module) for _ in range(count - 1))]


def _row_elements(backbone: Backbone) -> int:
    """The elements of one row, where an open length counts as its longest, or as a nominal one."""
    longest = backbone.input.max_tokens if isinstance(backbone.input, TextInput) else _NOMINAL_LENGTH
    return int(np.prod([longest if size is None else size for size in backbone.input.tensor.shape], dtype=np.int64))

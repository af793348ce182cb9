"""Load a registered backbone in this process: the server's, or a worker's."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from midrib.backbones import Backbone, load_backbone
from midrib.registry import AbstractRegistry
from midrib.server._calibration.parity import parity_reference
from midrib.server._calibration.threads import thread_counts
from midrib.server._catalogue.device_setup import DeviceSetup, WarmUpConfig
from midrib.server._catalogue.info import BackboneInfo, batch_limits
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import available_devices, use_tf32
from midrib.server._settings import BackboneSettings, Settings


@dataclass(frozen=True)
class LocalBackbone:
    """A backbone whose module is in this process, with the set-up of each of its devices."""

    backbone: Backbone
    device_setups: tuple[DeviceSetup, ...]

    def info(self) -> BackboneInfo:
        """Describe it; reads all weights, for the revision."""
        backbone = self.backbone
        dtype = self.device_setups[0].config.dtype
        return BackboneInfo(
            name=backbone.name,
            revision=backbone.revision(dtype),
            num_features=backbone.num_features,
            input=backbone.input,
            dtype=dtype,
            devices=tuple(setup.config.device for setup in self.device_setups),
            weight_bytes=_weight_bytes(backbone.module, dtype),
            last_id=_last_id(backbone.module),
            tokenizer=getattr(backbone.module, "tokenizer", None),
        )


def load_local(wanted: BackboneSettings, settings: Settings, registry: AbstractRegistry) -> LocalBackbone:
    """Load a backbone and set it up for each of its devices; slow.

    Raises what the registry and the loader raise, ValueError for a device that does not exist.
    """
    backbone = load_backbone(wanted.name, registry=registry, **wanted.arguments)
    use_tf32(settings.tf32)
    return LocalBackbone(backbone, tuple(_device_setups(backbone, wanted, settings)))


def _device_setups(backbone: Backbone, wanted: BackboneSettings, settings: Settings) -> Iterator[DeviceSetup]:
    """One for each device, each with its own copy of the module."""
    reference = parity_reference(backbone)
    devices = available_devices(wanted.device or settings.device)
    replicas = wanted.replicas or settings.replicas
    threads = wanted.threads or settings.threads
    warm_up_config = WarmUpConfig(
        batch_limits(settings), settings.warm_up_s, [threads] if threads else thread_counts(replicas)
    )
    for device, module in zip(devices, _copies(backbone.module, len(devices)), strict=True):
        config = ComputeConfig(
            device=device,
            dtype=wanted.dtype or settings.dtype,
            strict=settings.strict if wanted.strict is None else wanted.strict,
            compile=wanted.compile or settings.compile,
            graphs=settings.cuda_graphs if wanted.cuda_graphs is None else wanted.cuda_graphs,
        )
        yield DeviceSetup(backbone, module, config, reference, warm_up_config, tf32=settings.tf32)


def _last_id(module: nn.Module) -> int | None:
    """The largest token id that a text module looks up: its largest table is its vocabulary.

    A tokeniser's `shift` moves the ids, if the network's own 0 does not mean padding.
    """
    tables = [table.num_embeddings for table in module.modules() if isinstance(table, nn.Embedding)]
    return max(tables) - 1 + getattr(getattr(module, "tokenizer", None), "shift", 0) if tables else None


def _weight_bytes(module: nn.Module, dtype: str) -> int:
    floating = getattr(torch, dtype).itemsize
    weights = itertools.chain(module.parameters(), module.buffers())
    return sum(
        weight.numel() * (floating if weight.is_floating_point() else weight.element_size()) for weight in weights
    )


def _copies(module: nn.Module, count: int) -> list[nn.Module]:
    return [module, *(copy.deepcopy(module) for _ in range(count - 1))]

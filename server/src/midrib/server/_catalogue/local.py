"""Load a registered backbone in this process: the server's, or a worker's."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from midrib.backbones import Backbone, load_backbone
from midrib.registry import AbstractRegistry, TextInput
from midrib.server._calibration.parity import parity_reference
from midrib.server._calibration.threads import thread_counts
from midrib.server._catalogue.device_setup import DeviceSetup, WarmUpConfig
from midrib.server._catalogue.info import ServingInfo, batch_limits
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import available_devices, use_tf32
from midrib.server._intake.values import IdRange
from midrib.server._settings import BackboneSettings, Settings


@dataclass(frozen=True)
class LocalBackbone:
    """A backbone whose module is in this process, with the set-up of each of its devices.

    ids: the token ids that its module looks up.
    """

    backbone: Backbone
    device_setups: tuple[DeviceSetup, ...]
    ids: IdRange

    def info(self) -> ServingInfo:
        """Describe it; reads all weights, for the revision."""
        backbone = self.backbone
        dtype = self.device_setups[0].config.dtype
        return ServingInfo(
            name=backbone.name,
            revision=backbone.revision(dtype),
            num_features=backbone.num_features,
            input=backbone.input,
            dtype=dtype,
            devices=tuple(setup.config.device for setup in self.device_setups),
            weight_bytes=_weight_bytes(backbone.module, dtype),
            ids=self.ids,
            tokenizer=getattr(backbone.module, "tokenizer", None),
        )


def load_local(requested: BackboneSettings, settings: Settings, registry: AbstractRegistry) -> LocalBackbone:
    """Load a backbone and set it up for each of its devices; slow.

    Raises any error of the registry and of the loader, ValueError for a device that does not exist.
    """
    load_again = partial(load_backbone, requested.name, registry=registry, **requested.arguments)
    backbone = load_again()
    use_tf32(settings.tf32)
    ids = _ids(backbone)  # before the module is on a GPU, on which an id that it cannot look up ends the process
    setups = tuple(_device_setups(backbone, requested, settings))
    for setup in setups:
        setup.reload = lambda: load_again().module
    return LocalBackbone(backbone, setups, ids)


def _device_setups(backbone: Backbone, requested: BackboneSettings, settings: Settings) -> Iterator[DeviceSetup]:
    """Yield the set-up of each device, each with a copy of the module."""
    reference = parity_reference(backbone)
    devices = available_devices(requested.device or settings.device)
    replicas = requested.replicas or settings.replicas
    threads = requested.threads or settings.threads
    warm_up_config = WarmUpConfig(
        batch_limits(settings), settings.warm_up_s, [threads] if threads else thread_counts(replicas)
    )
    for device, module in zip(devices, _copies(backbone.module, len(devices)), strict=True):
        config = ComputeConfig(
            device=device,
            dtype=requested.dtype or settings.dtype,
            strict=settings.strict if requested.strict is None else requested.strict,
            compile=requested.compile or settings.compile,
            graphs=settings.cuda_graphs if requested.cuda_graphs is None else requested.cuda_graphs,
        )
        yield DeviceSetup(backbone, module, config, reference, warm_up_config, tf32=settings.tf32)


def _ids(backbone: Backbone) -> IdRange:
    """Return the token ids that a text module looks up."""
    last = _last_id(backbone.module)
    if not isinstance(backbone.input, TextInput):
        return IdRange(last=last)
    if backbone.prompts.unpooled and last is not None:
        return IdRange(-2 - last, last)
    try:
        backbone.embed(torch.tensor([[1, -1]]))
    except Exception:  # noqa: BLE001 - the module looks up -1 in its table, and raises any error
        return IdRange(last=last)
    return IdRange(-1, last)


def _last_id(module: nn.Module) -> int | None:
    """Return the largest token id that a text module looks up: its largest table is its vocabulary.

    A tokenizer's `shift` moves the ids, if the network's 0 does not mean padding.
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

"""From a registered name to a backbone that serves: load, place, warm, prove."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from midrib.backbones import Backbone, load_backbone
from midrib.registry import AbstractRegistry, TextInput
from midrib.server._batcher import BatchLimits
from midrib.server._forward import Forward, available_devices, example_rows
from midrib.server._intake import Intake
from midrib.server._replica import Compute
from midrib.server._served import Description, ServedBackbone
from midrib.server._settings import BackboneSettings, Settings
from midrib.wire import Array, MidribError

# Largest difference between a row alone in the loader's own module and the same row in a batch of the engine,
# relative to the largest feature: the parity self-test refuses to serve beyond it.
PARITY_BOUND = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
_PARITY_ROWS = 3
_TUNING_ROWS = 16
# What a row of an open length (audio, say) is taken for when rows are counted.
_NOMINAL_LENGTH = 16_000


class ParityError(MidribError, RuntimeError):
    """The engine's rows differ from the module's own: the backbone must not be served like this."""

    default_reason = "PARITY"


@dataclass(frozen=True)
class Loaded:
    """A backbone ready to take items.

    weight_bytes: of its parameters and buffers, on each of its devices.  pinned: never leaves to make room.
    """

    served: ServedBackbone
    intake: Intake
    weight_bytes: int
    pinned: bool


def load(wanted: BackboneSettings, settings: Settings, registry: AbstractRegistry, pool: Executor) -> Loaded:
    """Load a registered backbone and lay out its replicas; slow, so never call it on the event loop.

    Raises what the registry and the loader raise, and ValueError for a device that is not there.
    """
    backbone = load_backbone(wanted.name, registry=registry, **wanted.arguments)
    dtype = wanted.dtype or settings.dtype
    devices = available_devices(wanted.device or settings.device)
    threads = wanted.threads or settings.threads
    golden = _golden(backbone)
    strict = settings.strict if wanted.strict is None else wanted.strict
    prepares = [
        _prepare(
            backbone.name,
            partial(Forward, module, backbone.input, device=device, dtype=dtype, strict=strict),
            threads,
            golden,
        )
        for device, module in zip(devices, _copies(backbone.module, len(devices)), strict=True)
    ]
    description = Description(
        name=backbone.name,
        revision=backbone.revision(dtype),
        num_features=backbone.num_features,
        input=backbone.input,
        device=", ".join(devices),
        dtype=dtype,
        license=registry.describe(wanted.name).license or "",
    )
    max_rows = max(1, min(settings.max_batch_rows, settings.max_batch_elements // _row_elements(backbone)))
    limits = BatchLimits(
        max_rows=settings.max_batch_rows,
        max_cost=settings.max_batch_elements,
        max_queue_items=settings.max_queue_items,
        max_queue_cost=4 * settings.max_batch_elements,
    )
    intake = Intake(backbone, max_rows, settings.max_batch_elements, _last_id(backbone.module), pool)
    served = ServedBackbone(description, prepares, limits)
    return Loaded(served, intake, _weight_bytes(backbone.module, dtype), wanted.pinned)


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


def _prepare(
    name: str, build: Callable[[], Forward], threads: int | None, golden: tuple[Array, Array]
) -> Callable[[], Compute]:
    """What a replica's thread does first: place, choose the thread count, warm, prove."""

    def prepare() -> Compute:
        forward = build()
        if threads is None:
            forward.tune_threads(_TUNING_ROWS, _thread_counts())
        else:
            torch.set_num_threads(threads)
        _check_parity(name, forward, golden)
        return forward

    return prepare


def _thread_counts() -> list[int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [*(count for count in (1, 2, 4, 8, 16, 32) if count < cores), cores]


def _golden(backbone: Backbone) -> tuple[Array, Array]:
    """A few inputs, and their rows by the loader's own module, one at a time, before the engine touches it."""
    rows = example_rows(backbone.input, _PARITY_ROWS)
    with torch.inference_mode():
        outputs = [backbone.module(torch.from_numpy(rows[index : index + 1])) for index in range(len(rows))]
    return rows, torch.cat(outputs).double().numpy()


def _check_parity(name: str, forward: Forward, golden: tuple[Array, Array]) -> None:
    dtype = str(forward.dtype).removeprefix("torch.")
    rows, expected = golden
    (got,) = forward([(rows,)])
    difference = float(np.abs(got.astype(np.float64) - expected).max()) / max(float(np.abs(expected).max()), 1e-12)
    if not difference <= PARITY_BOUND[dtype]:
        raise ParityError(
            f"backbone {name!r} in {dtype} differs from its own module by {difference:.2g} of its largest feature, "
            f"at most {PARITY_BOUND[dtype]:.0e} is allowed: serve it in float32"
        )


def _row_elements(backbone: Backbone) -> int:
    """The elements of one row, where an open length counts as its longest, or as a nominal one."""
    longest = backbone.input.max_tokens if isinstance(backbone.input, TextInput) else _NOMINAL_LENGTH
    return int(np.prod([longest if size is None else size for size in backbone.input.tensor.shape], dtype=np.int64))

"""A backbone's place on one device: what its replicas there do before they serve. Place, tune, warm, prove."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from midrib.backbones import Backbone
from midrib.registry import TextInput
from midrib.server._batcher import BatchLimits
from midrib.server._forward import Forward, Placement, example_rows
from midrib.server._lanes import CpuLane
from midrib.server._replica import Compute
from midrib.server._tuning import Way, choose_piece, choose_threads, choose_width, crew_of
from midrib.server._warm_up import warm_up
from midrib.wire import Array, MidribError

logger = logging.getLogger(__name__)

# Largest difference between a row alone in the loader's own module and the same row in a batch of the engine,
# relative to the largest feature: the parity self-test refuses to serve beyond it.
PARITY_BOUND = {"float64": 1e-4, "float32": 1e-4, "tf32": 2e-2, "float16": 2e-2, "bfloat16": 1e-1}
_PARITY_ROWS = 3


class ParityError(MidribError, RuntimeError):
    """The engine's rows differ from the module's own: the backbone must not be served like this."""

    default_reason = "PARITY"


@dataclass(frozen=True)
class Golden:
    """Inputs of one row each, and their rows by the loader's own module: [inputs, num_features]."""

    inputs: Sequence[Array]
    rows: Array


@dataclass(frozen=True)
class Warmth:
    """How a replica is made ready.

    limits: of a batch.  threads: the counts to choose from, on a CPU.
    warm_up_s: for measuring how many rows a CPU takes at a time, and again for batches of the usual sizes.
    """

    limits: BatchLimits
    warm_up_s: float
    threads: Sequence[int]


@dataclass
class Seat:
    """One device's replicas; they share the module, and on a CPU the way to compute that the first one found.

    way: that, once it is found.
    """

    backbone: Backbone
    module: nn.Module
    placement: Placement
    golden: Golden
    warmth: Warmth
    tf32: bool
    way: Way | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # One at a time: whatever runs beside a measurement falsifies it, and a module is moved once.
        self._turn = threading.Lock()

    def prepare(self) -> Compute:
        """On a replica's own thread: its compute, placed, tuned, warmed and proved.

        Raises ParityError where the engine's rows are not the module's own, and whatever the module raises.
        """
        limits = self.warmth.limits
        with self._turn:
            forward = Forward(self.module, self.backbone.input, self.placement)
            if isinstance(forward.lane, CpuLane):
                way = self._tune(forward, forward.lane)
                limits = replace(limits, max_cost=(way.piece_elements or limits.max_cost) * way.width)
            warm_up(forward, limits, self.warmth.warm_up_s)
            check_parity(self.backbone.name, forward, self.golden, self._bound())
        return forward

    def _tune(self, forward: Forward, lane: CpuLane) -> Way:
        """Have a replica compute as the first one has found best, by measurement."""
        way = self.way
        if way is None:
            way = self.way = self._measure(forward, lane)
            logger.info("backbone %s computes with %s", self.backbone.name, way)
        else:
            choose_threads(forward, [way.threads])
            lane.crew = crew_of(way.width, max(self.warmth.threads))
        lane.piece_elements = way.piece_elements
        return way

    def _measure(self, forward: Forward, lane: CpuLane) -> Way:
        """The fastest way; this thread's count and the lane's crew are of it."""
        threads = choose_threads(forward, self.warmth.threads)
        if self.placement.strict:  # every row goes alone
            return Way(threads)
        seconds, width = self.warmth.warm_up_s, 1
        if self.placement.compile is None:  # what is compiled is so for one number of threads
            width = choose_width(forward, lane, max(self.warmth.threads), seconds)
        return Way(threads, width, choose_piece(forward, width, self.warmth.limits, seconds))

    def _bound(self) -> float:
        on_gpu = self.placement.device.startswith("cuda")
        return PARITY_BOUND[
            "tf32" if self.tf32 and on_gpu and self.placement.dtype == "float32" else self.placement.dtype
        ]


def golden_rows(backbone: Backbone) -> Golden:
    """A few inputs and their rows by the loader's own module, one at a time, before the engine touches it.

    Texts are of unequal lengths, so that the engine has to pad them.
    """
    rows = example_rows(backbone.input, _PARITY_ROWS)
    uneven = isinstance(backbone.input, TextInput)
    inputs = [
        rows[index : index + 1, : rows.shape[1] - index] if uneven else rows[index : index + 1]
        for index in range(len(rows))
    ]
    with torch.inference_mode():
        outputs = [backbone.module(torch.from_numpy(one)) for one in inputs]
    return Golden(inputs, torch.cat(outputs).double().numpy())


def check_parity(name: str, forward: Forward, golden: Golden, bound: float) -> None:
    """Raise ParityError unless the engine, in one batch, gives the golden rows within the bound."""
    got = np.concatenate(forward([(one,) for one in golden.inputs])).astype(np.float64)
    difference = float(np.abs(got - golden.rows).max()) / max(float(np.abs(golden.rows).max()), 1e-12)
    if not difference <= bound:
        dtype = str(forward.dtype).removeprefix("torch.")
        raise ParityError(
            f"backbone {name!r} in {dtype} differs from its own module by {difference:.2g} of its largest feature, "
            f"at most {bound:.0e} is allowed: serve it in float32"
        )

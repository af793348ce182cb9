"""A backbone's place on one device: what its replicas there do before they serve. Place, tune, warm, prove."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from midrib.backbones import Backbone
from midrib.server._calibration.parity import PARITY_BOUND, Golden, check_parity
from midrib.server._calibration.plan import Way, choose_piece, choose_threads, choose_width, crew_of
from midrib.server._calibration.warm_up import warm_up
from midrib.server._compute.devices import CpuLane
from midrib.server._compute.forward import Forward, Placement
from midrib.server._engine.batcher import BatchLimits
from midrib.server._engine.replica import Compute

logger = logging.getLogger(__name__)


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

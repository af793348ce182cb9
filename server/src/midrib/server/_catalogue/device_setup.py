"""A backbone's place on one device: what its replicas there do before they serve. Place, tune, warm, prove."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from midrib.backbones import Backbone
from midrib.server._calibration.parity import PARITY_BOUND, ParityReference, check_parity
from midrib.server._calibration.plan import ComputePlan, PassCalibration, choose_threads, parallel_passes_for
from midrib.server._calibration.warm_up import warm_up
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.forward import Forward
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.compute import Compute

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmUpConfig:
    """How a replica is made ready.

    limits: of a batch.  threads: the counts to choose from, on a CPU.
    warm_up_s: for measuring how many rows a CPU takes at a time, and again for batches of the usual sizes.
    """

    limits: BatchLimits
    warm_up_s: float
    threads: Sequence[int]


@dataclass
class DeviceSetup:
    """One device's replicas; they share the module, and on a CPU the way to compute that the first one found.

    plan: that, once it is found.
    """

    backbone: Backbone
    module: nn.Module
    config: ComputeConfig
    reference: ParityReference
    warm_up_config: WarmUpConfig
    tf32: bool
    plan: ComputePlan | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # One at a time: whatever runs beside a measurement falsifies it, and a module is moved once.
        self._turn = threading.Lock()

    def prepare(self) -> Compute:
        """`compute`, as the engine sees it."""
        return self.compute()

    def compute(self) -> Forward:
        """On a replica's thread: return its compute, placed, tuned, warmed and proved.

        Raises ParityError if the engine's rows differ from the module's, and what the module raises.
        """
        limits = self.warm_up_config.limits
        with self._turn:
            forward = Forward(self.module, self.backbone.input, self.config, num_features=self.backbone.num_features)
            if isinstance(forward.device, CpuDevice):
                plan = self._tune(forward, forward.device)
                limits = replace(limits, max_cost=(plan.micro_batch_elements or limits.max_cost) * plan.width)
            warm_up(forward, limits, self.warm_up_config.warm_up_s)
            check_parity(self.backbone.name, forward, self.reference, self._bound())
        return forward

    def _tune(self, forward: Forward, device: CpuDevice) -> ComputePlan:
        """Have a replica compute as the first one has found best, by measurement."""
        plan = self.plan
        if plan is None:
            plan = self.plan = self._measure(forward, device)
            logger.info("backbone %s computes with %s", self.backbone.name, plan)
        else:
            choose_threads(forward, [plan.threads])
            device.parallel_passes = parallel_passes_for(plan.width, max(self.warm_up_config.threads))
        device.micro_batch_elements = plan.micro_batch_elements
        return plan

    def _measure(self, forward: Forward, device: CpuDevice) -> ComputePlan:
        """Return the fastest plan, which this thread and the device use from now on."""
        threads = choose_threads(forward, self.warm_up_config.threads)
        config, width = self.warm_up_config, 1
        if self.config.strict or config.warm_up_s <= 0:  # in strict mode every row is computed alone
            return ComputePlan(threads)
        passes = PassCalibration(forward, device, config.limits, config.warm_up_s)
        if self.config.compile is None:  # what is compiled is so for one number of threads
            width = passes.choose_width(max(config.threads))
        return ComputePlan(threads, width, passes.choose_micro_batch(width))

    def _bound(self) -> float:
        on_gpu = self.config.device.startswith("cuda")
        return PARITY_BOUND["tf32" if self.tf32 and on_gpu and self.config.dtype == "float32" else self.config.dtype]

"""The set-up of a backbone on one device: move it there, calibrate, warm up, check parity."""

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
    """The limits and the time of a replica's warm-up.

    limits: of a batch.  threads: the counts to choose from, on a CPU.
    warm_up_s: the seconds for warm-up batches; on a CPU also for each measurement of parallel passes and micro-batches.
    """

    limits: BatchLimits
    warm_up_s: float
    threads: Sequence[int]


@dataclass
class DeviceSetup:
    """Sets up the replicas of one device, which share the module, and on a CPU the plan that the first one measured.

    plan: None until it is measured.
    """

    backbone: Backbone
    module: nn.Module
    config: ComputeConfig
    reference: ParityReference
    warm_up_config: WarmUpConfig
    tf32: bool
    plan: ComputePlan | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # One replica at a time: other work would disturb a measurement, and the module is moved once.
        self._one_at_a_time = threading.Lock()

    def prepare(self) -> Compute:
        """Return the same as `compute`, as the interface of the engine."""
        return self.compute()

    def compute(self) -> Forward:
        """Return the compute of a replica: calibrated, warm, and with its parity checked. Call it on its thread.

        Raises ParityError if the engine's rows differ from the module's, and the errors of the module.
        """
        limits = self.warm_up_config.limits
        with self._one_at_a_time:
            forward = Forward(self.module, self.backbone.input, self.config, num_features=self.backbone.num_features)
            if isinstance(forward.device, CpuDevice):
                plan = self._tune(forward, forward.device)
                limits = replace(limits, max_cost=(plan.micro_batch_elements or limits.max_cost) * plan.width)
            warm_up(forward, limits, self.warm_up_config.warm_up_s)
            check_parity(self.backbone.name, forward, self.reference, self._bound())
        return forward

    def _tune(self, forward: Forward, device: CpuDevice) -> ComputePlan:
        """Have a replica compute by the device's plan; the first replica measures it."""
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
        """Return the fastest plan; this thread and the device use it from now on."""
        threads = choose_threads(forward, self.warm_up_config.threads)
        config, width = self.warm_up_config, 1
        if self.config.strict or config.warm_up_s <= 0:  # in strict mode every row is computed alone
            return ComputePlan(threads)
        passes = PassCalibration(forward, device, config.limits, config.warm_up_s)
        # A compiled module is compiled for one number of threads.
        if self.config.compile is None and not self.reference.reuses_memory:
            width = passes.choose_width(max(config.threads))
        return ComputePlan(threads, width, passes.choose_micro_batch(width))

    def _bound(self) -> float:
        on_gpu = self.config.device.startswith("cuda")
        return PARITY_BOUND["tf32" if self.tf32 and on_gpu and self.config.dtype == "float32" else self.config.dtype]

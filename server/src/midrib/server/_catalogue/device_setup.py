"""The set-up of a backbone on one device: move it there, calibrate, warm up, check parity."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from torch import nn

from midrib.backbones import Backbone
from midrib.server._calibration.again import MeasurementStoppedError, clearly_faster, stop_before_pass
from midrib.server._calibration.other_load import OtherLoad
from midrib.server._calibration.parity import PARITY_BOUND, ParityReference, check_parity
from midrib.server._calibration.plan import ComputePlan, PassCalibration, choose_threads, parallel_passes_for
from midrib.server._calibration.warm_up import warm_up
from midrib.server._compute.config import ComputeConfig
from midrib.server._compute.devices import CpuDevice
from midrib.server._compute.examples import example_rows
from midrib.server._compute.forward import Forward
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._engine.compute import Compute, Stop, WorkerPlan
from midrib.wire import UnavailableError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmUpConfig:
    """The limits and the time of a replica's warm-up.

    limits: the limits of a batch.  threads: the thread counts to choose from, on a CPU.
    warm_up_s: the seconds for warm-up batches; on a CPU also for each measurement of parallel passes and micro-batches.
    """

    limits: BatchLimits
    warm_up_s: float
    threads: Sequence[int]


@dataclass
class DeviceSetup:
    """Sets up the replicas of one device, which share the module, and on a CPU the plan that the first one measured.

    reload: loads the module again; None if that is not possible.
    broken: the last module that could not compute any more, for example because it has deleted its weights.
    plan: None until it is measured.  disturbed: whether other processes used the processors while it was measured.
    """

    backbone: Backbone
    module: nn.Module
    config: ComputeConfig
    reference: ParityReference
    warm_up_config: WarmUpConfig
    tf32: bool
    reload: Callable[[], nn.Module] | None = None
    plan: ComputePlan | None = field(default=None, init=False)
    disturbed: bool = field(default=False, init=False)
    broken: nn.Module | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # One replica at a time: other work would disturb a measurement, and the module is moved once.
        self._one_at_a_time = threading.Lock()

    def prepare(self) -> Compute:
        """Return the result of `compute`, whose plan can be measured again, for the engine. Raises as `compute` does.

        A module that cannot compute any more is loaded again. Raises the errors of the loader too.
        """
        with self._one_at_a_time:
            if self.broken is self.module and self.reload is not None:
                logger.warning("backbone %s cannot compute any more: it is loaded again", self.backbone.name)
                self.module, self.broken = self.reload(), None
        return CalibratedForward(self, self.compute())

    @property
    def worker_plan(self) -> WorkerPlan | None:
        """The plan, for code without torch; None until it is measured."""
        return None if self.plan is None else WorkerPlan(asdict(self.plan), self._text, self.disturbed)

    def compute(self) -> Forward:
        """Return the compute of a replica: calibrated, warm, and with its parity checked. Call it on its thread.

        Raises ParityError if the engine's rows differ from the module's, and the errors of the module.
        """
        limits = self.warm_up_config.limits
        with self._one_at_a_time:
            forward = Forward(self.module, self.backbone.input, self.config, num_features=self.backbone.num_features)
            if isinstance(forward.device, CpuDevice):
                forward.device.copies_inputs = self.reference.keeps_inputs
                plan = self._tune(forward, forward.device)
                limits = replace(limits, max_cost=(plan.micro_batch_elements or limits.max_cost) * plan.width)
            warm_up(forward, limits, self.warm_up_config.warm_up_s)
            check_parity(self.backbone.name, forward, self.reference, self._bound())
        return forward

    def measure_again(self, forward: Forward, stop: Stop, other_load: OtherLoad) -> bool:
        """Measure the plan of an idle replica again, and use the new one if it is clearly faster; on its thread.

        other_load: measures other processes from its creation on: create it now.
        Returns False if the measurement was stopped or disturbed: the plan stays as it was.
        Raises ParityError, after which the plan is as it was, and the errors of the module.
        """
        plan = self.plan
        if plan is None or not isinstance(forward.device, CpuDevice):
            return False
        with self._one_at_a_time:
            forward.before_pass = partial(stop_before_pass, stop)
            try:
                faster = self._faster(forward, forward.device, plan)
            except MeasurementStoppedError:
                return False
            finally:
                forward.before_pass = lambda: None
                self.use_plan(forward, plan)
            if other_load.busy():
                return False
            self._replace(forward, plan, faster)
        return True

    def use_plan(self, forward: Forward, plan: ComputePlan) -> None:
        """Have a replica compute by a plan; on its thread."""
        torch.set_num_threads(plan.threads)
        if isinstance(forward.device, CpuDevice):
            width = plan.width
            pool = forward.device.parallel_passes
            if width != (1 if pool is None else pool.width):
                forward.device.parallel_passes = parallel_passes_for(width, max(self.warm_up_config.threads))
            forward.device.micro_batch_elements = plan.micro_batch_elements

    def _faster(self, forward: Forward, device: CpuDevice, plan: ComputePlan) -> ComputePlan:
        """Return a plan that measures clearly faster now, or else the plan in use."""
        pools = {plan.width: device.parallel_passes}
        device.parallel_passes = device.micro_batch_elements = None
        measured = self._measure(forward, device)
        pools[measured.width] = pools.get(measured.width) or device.parallel_passes

        def use(candidate: ComputePlan) -> None:
            device.parallel_passes = pools[candidate.width]
            self.use_plan(forward, candidate)

        if measured == plan:
            return plan
        config = self.warm_up_config
        rows = self._passes(forward, device).rows
        return clearly_faster(forward, (plan, measured), use, rows=rows, seconds=config.warm_up_s)

    def _replace(self, forward: Forward, plan: ComputePlan, faster: ComputePlan) -> None:
        """Use the faster plan from now on, if its rows are those of the module."""
        if faster != plan:
            self.use_plan(forward, faster)
            try:
                check_parity(self.backbone.name, forward, self.reference, self._bound())
            except BaseException:
                self.use_plan(forward, plan)
                raise
        self.plan, self.disturbed = faster, False

    def _tune(self, forward: Forward, device: CpuDevice) -> ComputePlan:
        """Have a replica compute by the device's plan; the first replica measures it."""
        if self.plan is None:
            other_load = OtherLoad()
            self.plan = self._measure(forward, device)
            self.disturbed = self._may_change and other_load.busy()
            logger.info("backbone %s computes with %s", self.backbone.name, self._text)
        self.use_plan(forward, self.plan)
        return self.plan

    @property
    def _text(self) -> str:
        return f"{self.plan}, measured on a busy machine" if self.disturbed else str(self.plan)

    @property
    def _may_change(self) -> bool:
        """Whether the plan may be measured again while the backbone serves.

        In strict mode the bits of an answer must not change. A compiled module is compiled for one number of threads.
        """
        return not self.config.strict and self.config.compile is None and self.warm_up_config.warm_up_s > 0

    def _measure(self, forward: Forward, device: CpuDevice) -> ComputePlan:
        """Return the fastest plan; this thread and the device use it from now on."""
        config, width = self.warm_up_config, 1
        divides = not self.config.strict and config.warm_up_s > 0  # in strict mode every row is computed alone
        # A compiled module is compiled for one number of threads.
        parallel = divides and self.config.compile is None and not self.reference.reuses_memory
        threads = choose_threads(forward, config.threads, parallel=parallel)
        if not divides:
            return ComputePlan(threads)
        passes = self._passes(forward, device)
        if parallel:
            width = passes.choose_width(threads)
        return ComputePlan(threads, width, passes.choose_micro_batch(width))

    def _passes(self, forward: Forward, device: CpuDevice) -> PassCalibration:
        config = self.warm_up_config
        return PassCalibration(forward, device, config.limits, max(config.threads), config.warm_up_s)

    def _bound(self) -> float:
        on_gpu = self.config.device.startswith("cuda")
        return PARITY_BOUND["tf32" if self.tf32 and on_gpu and self.config.dtype == "float32" else self.config.dtype]


class CalibratedForward:
    """The compute of a replica in a thread of the server. Implements `Compute` and `Calibrated` of the engine."""

    def __init__(self, setup: DeviceSetup, forward: Forward) -> None:
        self._setup, self._forward, self._module = setup, forward, setup.module
        self.depth, self.stage, self.close = forward.depth, forward.stage, forward.close

    def measure_again(self, stop: Stop) -> WorkerPlan | None:
        """Measure the plan; None if that was stopped or disturbed. Raises the errors of the module."""
        done = self._setup.measure_again(self._forward, stop, OtherLoad())
        return self._setup.worker_plan if done else None

    def probe(self) -> object:
        """Compute an example of one row.

        Raises the errors of the module; UnavailableError if another replica has met them before.
        """
        try:
            return self._forward([(example_rows(self._forward.spec, 1),)])
        except Exception as error:
            setup, module = self._setup, self._module
            if module is setup.broken or module is not setup.module:
                raise UnavailableError("the module is loaded again: try again", retry_after=0.1) from error
            setup.broken = module
            raise

    def use_plan(self, plan: WorkerPlan) -> None:
        """Compute by a plan from now on."""
        self._setup.use_plan(self._forward, ComputePlan(**plan.fields))

"""Compare the compute plan of a serving backbone with one that was measured again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from midrib.server._calibration.fastest import fastest, seconds_of
from midrib.server._calibration.plan import ComputePlan
from midrib.server._compute.examples import example_rows
from midrib.server._compute.forward import Forward
from midrib.server._engine.compute import Stop

# A plan replaces the one in use if it is faster by this share: otherwise the change is not worth a line in the log.
CLEARLY_FASTER = 0.15


class MeasurementStoppedError(Exception):
    """A measurement ended before its result, because a batch waits."""


def stop_before_pass(stop: Stop) -> None:
    """Raise MeasurementStoppedError if the next pass is not to be measured."""
    if stop():
        raise MeasurementStoppedError


def clearly_faster(
    forward: Forward,
    plans: tuple[ComputePlan, ComputePlan],
    use: Callable[[ComputePlan], object],
    *,
    rows: int,
    seconds: float,
) -> ComputePlan:
    """Return the second plan if it is faster than the first one by 15 % in three of four trials, or else the first.

    use: has the replica compute by a plan.  rows: the rows of a batch; single rows take a third of the measured time.
    Raises the errors of the module, and MeasurementStoppedError.
    """
    row, batch = (partial(forward, [(example_rows(forward.spec, count),)]) for count in (1, rows))
    use(plans[0])
    row()
    singles = max(1, min(rows, round(seconds_of(batch) / max(1e-9, seconds_of(row)) / 2)))

    def work(plan: ComputePlan) -> None:
        use(plan)
        batch()
        for _ in range(singles):
            row()

    return fastest(plans, work, margin=CLEARLY_FASTER, seconds=seconds)

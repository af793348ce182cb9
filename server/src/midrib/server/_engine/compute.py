"""The interface between a replica and its device: a batch is staged, launched and finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from midrib.wire import Array

Arrays: TypeAlias = tuple[Array, ...]
# Called before every pass of a measurement: returns whether to stop, because a batch waits.
Stop: TypeAlias = Callable[[], bool]


@dataclass(frozen=True)
class WorkerPlan:
    """A compute plan, for a process without torch.

    fields: those of the plan's class.  text: the plan in words.
    disturbed: whether other processes used the processors while it was measured.
    """

    fields: dict[str, Any]
    text: str
    disturbed: bool = False


class OutputError(RuntimeError):
    """A module or a replica returned something other than one row of features for each row of its input."""


class Launched(Protocol):
    """A batch that the device computes."""

    @property
    def ready(self) -> bool:
        """Whether `finish` returns at once."""
        ...

    def finish(self) -> Sequence[Array | Exception]:
        """Wait for the device; return the rows of each item, [rows, ...], or its error. Raises errors of the batch."""
        ...


class Staged(Protocol):
    """A batch in its staging buffers."""

    def launch(self) -> Launched:
        """Start to compute. Raises the errors of the module."""
        ...


class Compute(Protocol):
    """Computes the batches of one replica.

    depth: the number of batches that may be staged or computed at a time.
    """

    depth: int

    def stage(self, batch: Sequence[Arrays]) -> Staged:
        """Stage a batch, in any thread. batch: for each item its arrays, [rows, ...]."""
        ...

    def close(self) -> None:
        """Free the resources; nothing is staged or launched after this."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A `Compute` whose compute plan can be measured again or replaced, on the replica's thread."""

    def measure_again(self, stop: Stop) -> WorkerPlan | None:
        """Measure the plan, and use the new one if it is clearly faster; return the plan in use.

        Returns None if the measurement was stopped, or is not to be done. Raises what the module raises.
        """
        ...

    def use_plan(self, plan: WorkerPlan) -> None:
        """Compute by a plan from now on."""
        ...

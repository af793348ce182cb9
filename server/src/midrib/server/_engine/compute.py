"""The interfaces of a replica: to the engine, and to its device, where a batch is staged, launched and finished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from midrib.wire import Array, UnavailableError

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
        """Stage a batch, in any thread. batch: the arrays of each item, [rows, ...]."""
        ...

    def close(self) -> None:
        """Free the resources; nothing is staged or launched after this."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A `Compute` whose compute plan can be measured again or replaced, on the replica's thread."""

    def measure_again(self, stop: Stop) -> WorkerPlan | None:
        """Measure the plan, and use the new one if it is clearly faster; return the plan in use.

        Returns None if the measurement was stopped, or is not to be done. Raises the errors of the module.
        """
        ...

    def use_plan(self, plan: WorkerPlan) -> None:
        """Compute by a plan from now on."""
        ...

    def probe(self) -> object:
        """Compute an example, as at load. Raises the errors of the module if it cannot compute any more."""
        ...


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The results of a batch: the rows of each item, [rows, ...], or its error.

    staging_s: the seconds to stage it.  started, finished: when it computed, on time.monotonic.
    lost: the error of further batches, if this one has broken the replica.
    """

    results: Sequence[Array | Exception]
    staging_s: float
    started: float
    finished: float
    lost: UnavailableError | None = None


class BatchRunner(Protocol):
    """A replica, wherever it computes: a thread here, or a worker process."""

    @property
    def depth(self) -> int:
        """The number of batches that may be submitted at a time."""
        ...

    async def start(self) -> None:
        """Wait until it is ready; raises the errors of the preparation."""
        ...

    def submit(self, batch: Sequence[Arrays]) -> asyncio.Future[BatchReport]:
        """Run a batch of items, each of arrays [rows, ...]; at most `depth` batches at a time.

        The future raises UnavailableError if the batch cannot be run.
        """
        ...

    def change_plan(self, plan: WorkerPlan | None) -> asyncio.Future[WorkerPlan | None]:
        """Use a compute plan, or measure it again if it is None; after the submitted batches.

        A batch that is submitted meanwhile waits for one pass at most. The future gives the plan in use; None if the
        measurement was stopped or disturbed.
        """
        ...

    def stop_measuring(self) -> None:
        """End a measurement after its present pass."""
        ...

    def abandon(self, error: UnavailableError) -> None:
        """Fail the batches that it has, whose computation may never end."""
        ...

    def close(self) -> None:
        """End after the batches that it has."""
        ...

    async def join(self) -> None:
        """Wait until it has ended."""
        ...

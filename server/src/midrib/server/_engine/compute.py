"""The interface between a replica and its device: a batch is staged, launched and finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from midrib.wire import Array

Arrays: TypeAlias = tuple[Array, ...]


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

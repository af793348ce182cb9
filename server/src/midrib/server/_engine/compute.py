"""The interface of what a replica runs: a batch is staged, launched and finished."""

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
        """Wait for the device; return the rows of each item, or the error of one that cannot be computed."""
        ...


class Staged(Protocol):
    """A batch in its buffers."""

    def launch(self) -> Launched:
        """Start on it."""
        ...


class Compute(Protocol):
    """What a replica runs.

    depth: how many batches it can hold at a time, from being staged to being finished.
    """

    depth: int

    def stage(self, batch: Sequence[Arrays]) -> Staged:
        """Put a batch together; from another thread than the one that launches."""
        ...

    def close(self) -> None:
        """Free what it holds; nothing is staged or launched after this."""
        ...

"""A batch on its way through a device: staged, then launched, then finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import torch
from torch import Tensor

from midrib.server._compute.devices import Pending
from midrib.server._compute.joining import split_rows
from midrib.wire import Array


class Staging(Protocol):
    """The memory that a batch is computed from."""

    def release(self) -> None:
        """Let the memory change. Called once, when the batch is finished or has failed."""
        ...


@dataclass(frozen=True)
class StagedBatch:
    """A batch in its staging memory, which it holds until it is finished or has failed.

    lengths: the rows of each item.  start: starts to compute it; raises the errors of the module.
    """

    staging: Staging
    lengths: Sequence[int]
    start: Callable[[], Pending]

    def launch(self) -> LaunchedBatch:
        """Start to compute; on a CPU it has ended when this returns. Raises the errors of the module."""
        try:
            return LaunchedBatch(self, self.start())
        except BaseException:
            self.staging.release()
            raise


@dataclass(frozen=True)
class LaunchedBatch:
    """A batch that a device computes."""

    staged: StagedBatch
    pending: Pending

    @property
    def ready(self) -> bool:
        """Whether `finish` returns at once."""
        return self.pending.ready

    def finish(self) -> list[Array]:
        """Wait for the rows; return those of each item, [rows, ...]: views of one array that nothing else writes to.

        Raises errors of the device.
        """
        try:
            rows = self.pending.wait()
            if self.pending.ready:  # a module may return its input (Identity, Flatten), or memory that it uses again
                rows = rows.clone()
        finally:
            self.staged.staging.release()
        return split_rows(to_numpy(rows), self.staged.lengths)


def to_numpy(rows: Tensor) -> Array:
    """Return rows on the host, [rows, ...], as an array that shares their memory."""
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    result: Array = rows.numpy()
    return result

"""A batch on its way through a device: staged in a buffer, then launched, then finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ml_dtypes
import torch
from torch import Tensor

from midrib.server._compute.devices import Pending
from midrib.server._compute.joining import split_rows
from midrib.server._compute.staging import BufferPool, StagingBuffer
from midrib.wire import Array


@dataclass(frozen=True)
class StagedBatch:
    """A batch in a staging buffer, which it holds until it is finished or has failed.

    lengths: the rows of each item.  start: starts to compute it; raises what the module raises.
    """

    pool: BufferPool
    buffer: StagingBuffer
    lengths: Sequence[int]
    start: Callable[[], Pending]

    def launch(self) -> LaunchedBatch:
        """Start to compute; on a CPU it has ended when this returns. Raises what the module raises."""
        try:
            return LaunchedBatch(self, self.start())
        except BaseException:
            self.pool.give_back(self.buffer)
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
            if self.staged.buffer.holds(rows):  # a module may return its input (Identity, Flatten)
                rows = rows.clone()
        finally:
            self.staged.pool.give_back(self.staged.buffer)
        return split_rows(to_numpy(rows), self.staged.lengths)


def to_numpy(rows: Tensor) -> Array:
    """Return rows on the host, [rows, ...], as an array that shares their memory."""
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    result: Array = rows.numpy()
    return result

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
from midrib.server._shared_memory.memory import written_result
from midrib.wire import Array


class Staging(Protocol):
    """The memory that a batch is computed from."""

    def release(self) -> None:
        """Let others write to the memory. Called once, when the batch is finished or has failed."""
        ...


@dataclass(frozen=True)
class StagedBatch:
    """A batch in its staging memory, which it holds until it is finished or has failed.

    lengths: the rows of each item.  start: starts to compute it; raises the errors of the module.
    client_input: the input of the batch if it is one item of a client's memory, which also gets the rows.
    """

    staging: Staging
    lengths: Sequence[int]
    start: Callable[[], Pending]
    client_input: Array | None = None

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
            rows = to_numpy(self.pending.wait())
            if self.pending.ready:  # a module may return its input (Identity, Flatten), or memory that it uses again
                rows = self._kept(rows)
        finally:
            self.staged.staging.release()
        return split_rows(rows, self.staged.lengths)

    def _kept(self, rows: Array) -> Array:
        """Return a copy of the rows, in the client's memory if it has a place for them."""
        client_input = self.staged.client_input
        written = rows if client_input is None else written_result(client_input, rows)
        return rows.copy() if written is rows else written


def to_numpy(rows: Tensor) -> Array:
    """Return rows on the host, [rows, ...], as an array that shares their memory."""
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    result: Array = rows.numpy()
    return result

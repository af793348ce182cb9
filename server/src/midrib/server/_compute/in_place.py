"""Batches that are computed where a client has written them, without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from midrib.server._compute.joining import lie_staged
from midrib.server._engine.compute import Arrays


class InPlaceRule:
    """Decides which batches of one replica are computed in place.

    dtypes: those in which the arrays of an item are staged.
    possible: whether the device reads the host's memory. Set to False once the module has written to its input:
    the input of a worker that dies is computed again.
    """

    def __init__(self, dtypes: Sequence[str], *, possible: bool) -> None:
        self._dtypes = dtypes
        self.possible = possible

    def accepts(self, batch: Sequence[Arrays]) -> bool:
        """Return whether a batch is one item, of arrays [rows, ...], that needs no copy."""
        return self.possible and len(batch) == 1 and lie_staged(batch[0], self._dtypes)


class RowsInPlace:
    """The arrays of one item, [rows, ...], as tensors of the same memory. Implements `batches.Staging`."""

    def __init__(self, arrays: Arrays, rule: InPlaceRule) -> None:
        self.inputs = [torch.from_numpy(array) for array in arrays]
        self._rule = rule

    def release(self) -> None:
        """Stop computing in place if the module has written to its input."""
        if any(inputs._version for inputs in self.inputs):  # noqa: SLF001 - torch's count of writes, not public
            self._rule.possible = False

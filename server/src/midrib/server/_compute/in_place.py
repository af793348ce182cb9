"""Batches that are computed where a client has written them, without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from midrib.server._compute.joining import staged_dtype
from midrib.server._engine.compute import Arrays
from midrib.server._shared_memory.memory import is_shared
from midrib.wire import Array


class InPlaceRule:
    """Decides which batches of one replica are computed in place.

    dtypes: in which the arrays of an item are staged.
    possible: whether the device reads the host's memory. Set to False once the module has written to its input:
    the input of a worker that dies is computed again.
    """

    def __init__(self, dtypes: Sequence[str], *, possible: bool) -> None:
        self._dtypes = dtypes
        self.possible = possible

    def accepts(self, batch: Sequence[Arrays]) -> bool:
        """Return whether a batch is one item in a client's memory, in the layout and the dtype of a staged batch.

        Integers are refused, because a module may check one and read it again to look it up.
        """
        return (
            self.possible
            and len(batch) == 1
            and all(_lies_staged(array, dtype) for array, dtype in zip(batch[0], self._dtypes, strict=False))
        )


def _lies_staged(array: Array, dtype: str) -> bool:
    same = dtype != "int64" and array.dtype.name == staged_dtype([array], dtype)
    return same and array.flags.c_contiguous and is_shared(array)


class RowsInPlace:
    """The arrays of one item, [rows, ...], as tensors of the same memory. Implements `batches.Staging`."""

    def __init__(self, arrays: Arrays, rule: InPlaceRule) -> None:
        self.inputs = [torch.from_numpy(array) for array in arrays]
        self._rule = rule

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor lies in the client's memory."""
        address = tensor.data_ptr()
        return any(inputs.data_ptr() <= address < inputs.data_ptr() + inputs.nbytes for inputs in self.inputs)

    def release(self) -> None:
        """Stop computing in place if the module has written to its input."""
        if any(inputs._version for inputs in self.inputs):  # noqa: SLF001 - torch's count of writes, not public
            self._rule.possible = False

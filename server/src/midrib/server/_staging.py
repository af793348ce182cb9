"""Host buffers in which batches are put together. They are used again and again: while a device reads one, the next
batch fills another.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from midrib.wire import Array


class Slot:
    """The buffers of one batch: one for each of an item's arrays.

    dtypes: of the buffers.  pinned: in memory that a GPU copies from by itself.
    """

    def __init__(self, dtypes: Sequence[torch.dtype], *, pinned: bool) -> None:
        self._pinned = pinned
        self._buffers = [torch.empty(0, dtype=dtype) for dtype in dtypes]

    def fill(self, index: int, arrays: Sequence[Array]) -> Tensor:
        """The rows of all arrays one after the other, zero-padded to the longest, in the buffer of that index."""
        rows = sum(map(len, arrays))
        shapes = {array.shape[1:] for array in arrays}
        longest = tuple(map(max, zip(*shapes, strict=True)))
        filled = self._room(index, rows * math.prod(longest)).view(rows, *longest)
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite, as in process
            if len(shapes) == 1:
                np.concatenate(arrays, out=filled.numpy(), casting="unsafe")
            else:
                _pad_into(filled.numpy(), arrays)
        return filled

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in one of the buffers, which the next batch overwrites."""
        return any(one.data_ptr() <= tensor.data_ptr() < one.data_ptr() + one.nbytes for one in self._buffers)

    def _room(self, index: int, elements: int) -> Tensor:
        buffer = self._buffers[index]
        if buffer.numel() < elements:
            buffer = torch.empty(elements, dtype=buffer.dtype, pin_memory=self._pinned)
            self._buffers[index] = buffer
        return buffer[:elements]


class Ring:
    """The slots of one replica; whoever takes one gives it back. From any thread."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def take(self) -> Slot:
        """A slot that no batch uses; waits for one."""
        return self._free.get()

    def give_back(self, slot: Slot) -> None:
        """Nobody reads from it any more."""
        self._free.put(slot)


def _pad_into(view: Array, arrays: Sequence[Array]) -> None:
    view.fill(0)
    offset = 0
    for array in arrays:
        places = (slice(offset, offset + len(array)), *map(slice, array.shape[1:]))
        np.copyto(view[places], array, casting="unsafe")
        offset += len(array)

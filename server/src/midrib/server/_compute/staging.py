"""Host buffers in which batches are put together. They are used again and again: while a device reads one, the next
batch fills another.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from midrib.server._compute.joining import join_into, joined_shape
from midrib.wire import Array

_REMEMBERED = 64


class StagingBuffer:
    """The buffers of one batch: one for each of an item's arrays.

    dtypes: of the buffers.  pinned: in memory that a GPU copies from by itself.
    """

    def __init__(self, dtypes: Sequence[torch.dtype], *, pinned: bool) -> None:
        self._pinned = pinned
        self._buffers = [torch.empty(0, dtype=dtype) for dtype in dtypes]
        self._places = [(0, 0) for _ in dtypes]
        # The same few shapes come again and again, and making a view of one takes longer than filling it with a row.
        self._views: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Array]] = {}

    def fill(self, index: int, arrays: Sequence[Array]) -> Tensor:
        """The rows of all arrays one after the other, zero-padded to the longest, in the buffer of that index."""
        tensor, view = self._view(index, joined_shape(arrays))
        join_into(view, arrays)
        return tensor

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in one of the buffers, which the next batch overwrites."""
        at = tensor.data_ptr()
        return any(start <= at < end for start, end in self._places)

    def _view(self, index: int, shape: tuple[int, ...]) -> tuple[Tensor, Array]:
        """The buffer as a tensor of a shape, and as the array of the same memory."""
        found = self._views.get((index, shape))
        if found is None:
            tensor = self._room(index, math.prod(shape)).view(shape)
            if len(self._views) == _REMEMBERED:
                self._views.clear()
            found = self._views[index, shape] = tensor, tensor.numpy()
        return found

    def _room(self, index: int, elements: int) -> Tensor:
        buffer = self._buffers[index]
        if buffer.numel() < elements:
            self._views.clear()  # they hold the smaller buffer's memory
            buffer = torch.empty(elements, dtype=buffer.dtype, pin_memory=self._pinned)
            self._buffers[index] = buffer
            self._places[index] = (buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes)
        return buffer[:elements]


class BufferPool:
    """The buffers of one replica; whoever takes one gives it back. From any thread."""

    def __init__(self, buffers: Iterable[StagingBuffer]) -> None:
        self._free: queue.SimpleQueue[StagingBuffer] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)

    def take(self) -> StagingBuffer:
        """A buffer that no batch uses; waits for one."""
        return self._free.get()

    def give_back(self, buffer: StagingBuffer) -> None:
        """Nobody reads from it any more."""
        self._free.put(buffer)

"""Host buffers in which batches are staged. They are reused: while a device reads one, the next batch fills another."""

from __future__ import annotations

import math
import queue
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midrib.server._compute.joining import join_into, joined_shape, staged_dtype
from midrib.wire import Array

_MAX_VIEWS = 64


class StagingBuffer:
    """The buffers of one batch: one for each array of an item and each dtype in which it is staged.

    dtypes: of the arrays, except for pixels, which stay uint8.
    pinned: whether the buffers lie in page-locked memory, from which a GPU copies asynchronously.
    """

    def __init__(self, dtypes: Sequence[torch.dtype], *, pinned: bool) -> None:
        self._pinned = pinned
        self._dtypes = [str(dtype).removeprefix("torch.") for dtype in dtypes]
        self._buffers: dict[tuple[int, str], Tensor] = {}
        # Few shapes recur, and making a view of one takes longer than copying a row into it.
        self._views: dict[tuple[int, str, tuple[int, ...]], tuple[Tensor, Array]] = {}

    def fill(self, index: int, arrays: Sequence[Array]) -> Tensor:
        """Copy the rows of all arrays into a buffer, padded with 0 to the longest; return them, [rows, ...].

        On a CPU the tensor and its storage are new, because the module gets them: it may transpose its input in place
        (`t_`), or give it other memory (`set_`, `share_memory_`).
        """
        dtype = staged_dtype(arrays, self._dtypes[index])
        tensor, view = self._view((index, dtype, joined_shape(arrays)))
        join_into(view, arrays)
        return tensor if self._pinned else torch.from_numpy(view)

    def _view(self, layout: tuple[int, str, tuple[int, ...]]) -> tuple[Tensor, Array]:
        """Return a buffer as a tensor, and as an array of the same memory. layout: its index, dtype and shape."""
        views = self._views.get(layout)
        if views is None:
            index, dtype, shape = layout
            tensor = self._flat((index, dtype), math.prod(shape)).view(shape)
            if len(self._views) == _MAX_VIEWS:
                self._views.clear()
            views = self._views[layout] = tensor, tensor.numpy()
        return views

    def _flat(self, key: tuple[int, str], elements: int) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < elements:
            self._views.clear()  # they hold the smaller buffer's memory
            dtype = getattr(torch, key[1])
            buffer = torch.empty(elements, dtype=dtype, pin_memory=self._pinned, device="cpu")  # not a module's default
            self._buffers[key] = buffer
        return buffer[:elements]


class BufferPool:
    """The staging buffers of one replica, for any thread."""

    def __init__(self, buffers: Iterable[StagingBuffer]) -> None:
        self._free: queue.SimpleQueue[StagingBuffer] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)

    def take(self) -> StagingBuffer:
        """Return a buffer that no batch uses; waits for one. Give it back once its batch is finished."""
        return self._free.get()

    def give_back(self, buffer: StagingBuffer) -> None:
        """Take back a buffer that nothing reads any more."""
        self._free.put(buffer)


@dataclass(frozen=True)
class PooledBuffer:
    """A buffer of a pool, with one batch. Implements `batches.Staging`."""

    pool: BufferPool
    buffer: StagingBuffer

    def release(self) -> None:
        """Give the buffer back."""
        self.pool.give_back(self.buffer)

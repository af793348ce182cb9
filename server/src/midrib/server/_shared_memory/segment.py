"""A segment of memory for one stream: anonymous, made by the server, mapped by the server and one client."""

from __future__ import annotations

import fcntl
import math
import os

import numpy as np

from midrib.server._shared_memory.memory import ClientMemory, ResultPlace, same_elements
from midrib.v1.embedding_pb2 import SharedItem, SharedTensor
from midrib.wire import (
    SHARED_ALIGNMENT,
    Array,
    InvalidInputError,
    checked_size,
    code_from_dtype,
    dtype_from_code,
)


class SealedSegment:
    """Memory with a sealed size: because neither side can shrink it, reading it never raises SIGBUS.

    The client may write to it at any time. A value can therefore change between two reads: copy values before a
    check that protects other clients.
    The memory is unmapped with the last array that refers to it.
    Raises OSError if the system has no memory or no descriptor left.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        descriptor = os.memfd_create("midrib-stream", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size_bytes)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self.memory = ClientMemory(descriptor, size_bytes)
        except OSError:
            os.close(descriptor)
            raise
        self.memory.keep(descriptor)

    def hand_over(self) -> int:
        """Return a descriptor for the client, which the caller closes. Raises OSError if none is left."""
        return os.dup(self.memory.descriptor)

    def array(self, tensor: SharedTensor, *, field: str) -> Array:
        """Return a view of a tensor [rows, ...] that a client has written.

        field: the place of the tensor in the request, for the error.
        Raises InvalidInputError if it is not inside the segment, or its shape or element type is invalid.
        """
        dtype = dtype_from_code(tensor.dtype, field=f"{field}.dtype")
        if dtype == np.bool_:
            raise InvalidInputError(
                f"{field}.dtype is bool, which shared memory does not carry: send it in a message",
                field=f"{field}.dtype",
            )
        shape = tuple(tensor.shape)
        size = checked_size(shape, dtype.itemsize, field=f"{field}.shape")
        self.check(tensor.offset, size, field=f"{field}.offset")
        if not size:
            return np.empty(shape, dtype)
        return self.memory.view(tensor.offset, dtype, shape)

    def check(self, offset: int, size: int, *, field: str) -> None:
        """Raise InvalidInputError unless `size` bytes from an aligned offset lie inside the segment."""
        if offset % SHARED_ALIGNMENT or offset + size > self.size_bytes:
            raise InvalidInputError(
                f"{field} is {offset} for {size} bytes, expected a multiple of {SHARED_ALIGNMENT} inside a segment of "
                f"{self.size_bytes} bytes",
                field=field,
            )

    def expect_result(self, item: SharedItem) -> None:
        """Let a worker write the result of a checked item to the place that the item names."""
        rows = math.prod(item.input.shape[:1])
        self.memory.add_result_place(item.input.offset, ResultPlace(rows, item.result_offset, item.result_bytes))

    def forget_result(self, item: SharedItem) -> None:
        """Stop workers from writing to the place of an item that has been answered."""
        self.memory.remove_result_place(item.input.offset)

    def write(self, rows: Array, item: SharedItem) -> SharedTensor | None:
        """Write an embedding [rows, dimensions] to the checked place that an item names; return its description.

        Returns None if the embedding does not fit there. A worker may have written it there already.
        """
        if rows.nbytes > item.result_bytes:
            return None
        view = self.memory.view(item.result_offset, rows.dtype, rows.shape)
        if not same_elements(view, rows):
            np.copyto(view, rows)
        return SharedTensor(dtype=code_from_dtype(rows.dtype), shape=rows.shape, offset=item.result_offset)

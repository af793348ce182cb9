"""Join the arrays of a batch, and split its rows again. numpy only: the server's process uses it beside the workers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from midrib.server._shared_memory.memory import is_shared
from midrib.wire import Array

_PIXELS = np.dtype(np.uint8)


def staged_dtype(arrays: Sequence[Array], dtype: str) -> str:
    """Return the dtype in which to stage arrays [rows, ...] that share a batch.

    It is uint8 for pixels, which the device normalises.

    dtype: the replica's dtype for all other arrays: a floating one, or int64 for integers of any width.
    """
    return "uint8" if arrays[0].dtype == _PIXELS and dtype != "int64" else dtype


def lie_staged(arrays: Sequence[Array], dtypes: Sequence[str]) -> bool:
    """Return whether one item's arrays [rows, ...] lie in a client's memory as they would be staged: they need no copy.

    dtypes: those in which they are staged. Integers are always copied: a module may check an id, and read it again to
    look it up, and the client may change it in between.
    """
    return all(
        dtype != "int64"
        and array.dtype.name == staged_dtype([array], dtype)
        and array.flags.c_contiguous
        and is_shared(array)
        for array, dtype in zip(arrays, dtypes, strict=False)
    )


def joined_shape(arrays: Sequence[Array]) -> tuple[int, ...]:
    """Return the shape of the arrays [rows, ...] joined: all rows, each dimension as long as the longest array's."""
    rows = sum(map(len, arrays))
    first = arrays[0].shape[1:]
    if all(array.shape[1:] == first for array in arrays):
        return (rows, *first)
    return (rows, *map(max, zip(*(array.shape[1:] for array in arrays), strict=True)))


def join_into(view: Array, arrays: Sequence[Array]) -> None:
    """Write the rows of all arrays [rows, ...] into a view of `joined_shape`, padded with 0, converted to its dtype.

    Raises ValueError for a mixture of pixels and floats, because pixels must be normalised to become floats.
    """
    if any(array.shape[1:] != view.shape[1:] for array in arrays):
        _pad_into(view, arrays)
    elif all(array.dtype == view.dtype for array in arrays):
        np.concatenate(arrays, out=view)
    else:
        _refuse_mixture(view, arrays)
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite, as in process
            np.concatenate(arrays, out=view, casting="unsafe")


def split_rows(rows: Array, lengths: Sequence[int]) -> list[Array]:
    """Return the rows of each item, [length, ...]: views of the rows of their batch, [sum of lengths, ...]."""
    if len(lengths) == 1:
        return [rows]
    ends = list(itertools.accumulate(lengths))
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _refuse_mixture(view: Array, arrays: Sequence[Array]) -> None:
    """Raise ValueError if pixels and floats [rows, ...] would share a batch."""
    if view.dtype.kind != "i" and any(_PIXELS in (view.dtype, array.dtype) for array in arrays):
        names = ", ".join(sorted({array.dtype.name for array in arrays}))
        raise ValueError(f"a batch of {view.dtype} has arrays of {names}: put pixels and floats into separate batches")


def _pad_into(view: Array, arrays: Sequence[Array]) -> None:
    view.fill(0)
    offset = 0
    with np.errstate(over="ignore"):
        for array in arrays:
            places = (slice(offset, offset + len(array)), *map(slice, array.shape[1:]))
            np.copyto(view[places], array, casting="unsafe")
            offset += len(array)

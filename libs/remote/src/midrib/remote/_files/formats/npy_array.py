"""Arrays in .npy: the backbone's own input, one item per row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from midrib.remote._files.storage import LocalFile
from midrib.wire import Array, InvalidInputError

_ROW_DIMENSIONS: Final = 2
_REAL_KINDS: Final = "biuf"  # numpy's letters for booleans, integers and floating numbers


def read_npy(file: LocalFile) -> Iterator[Array]:
    """Yield the rows of an array [rows, ...].

    Raises InvalidInputError for a file that cannot be read as .npy, and for an array of fewer than two dimensions or of
    other values than real numbers.
    """
    try:
        rows = np.load(file.path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python, which has errors of many kinds
        raise InvalidInputError(f"{file.name} cannot be read as .npy: {error}") from error
    if not isinstance(rows, np.ndarray):
        raise InvalidInputError(f"{file.name} is an archive of arrays (.npz), expected one array: save it by np.save")
    if rows.ndim < _ROW_DIMENSIONS:
        raise InvalidInputError(f"{file.name} has shape {list(rows.shape)}, expected [rows, ...]: reshape it")
    if rows.dtype.kind not in _REAL_KINDS:
        raise InvalidInputError(f"{file.name} has dtype {rows.dtype}, expected real numbers: convert it")
    yield from np.asarray(rows)  # rows of a memmap are slow to make

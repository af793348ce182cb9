"""Digests of a table's rows, which tell a later job the rows that are finished."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types

from midrib.ray._values import column_values
from midrib.wire import Array

# 128 bits as hexadecimal text: NumPy's byte strings would drop zero bytes at the end of the digest itself.
DIGEST: Final = np.dtype("S32")


def row_digests(table: pa.Table, value: str, copied: Sequence[str]) -> Array:
    """Return a digest of each row, [rows].

    value: the column to embed; the digest of a path does not cover the content of its file.
    copied: the columns of the output, the ids among them.
    """
    values = column_values(table.column(value))
    rows = table.select(copied).to_pylist()
    digests = [_digest(embedded, row) for embedded, row in zip(values, rows, strict=True)]
    return np.array(digests, DIGEST)


def _digest(value: Any, copied: dict[str, Any]) -> bytes:
    digest = hashlib.blake2b(repr({name: _exact(entry) for name, entry in copied.items()}).encode(), digest_size=16)
    digest.update(value if isinstance(value, bytes) else repr(_exact(value)).encode())
    return digest.hexdigest().encode()


def _exact(value: Any) -> Any:
    """Return a value whose `repr` shows all of it: that of an array rounds numbers and shortens long arrays."""
    if not isinstance(value, np.ndarray):
        return value
    return value.dtype.str, value.shape, value.tolist() if value.dtype == object else value.tobytes()

"""Features of frozen backbones kept on disk: what was embedded once costs no call again."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from midrib.wire import Array, InvalidInputError

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS features (function BLOB, row BLOB, features BLOB, PRIMARY KEY (function, row)) "
    "WITHOUT ROWID"
)
_AT_ONCE: Final = 500  # of SQLite's variables in one query
_BUSY_S: Final = 30.0


class FeatureCache:
    """A SQLite file of rows, keyed by the function (revision and options) and the digest of each input row.

    Several processes may share it, DataLoader workers included; a row that was written by a killed process is either
    there in full or not at all. The features are those that the server gave, to the bit.
    """

    def __init__(self, path: str | Path, function: str, dtype: str, num_features: int) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise InvalidInputError(f"cache={str(path)!r}: no directory {self.path.parent}, make it first")
        self._function = hashlib.blake2b(f"{function}/{dtype}".encode(), digest_size=16).digest()
        self._dtype = np.dtype(dtype)
        self._num_features = num_features

    def features(self, rows: Array, compute: Callable[[Array], Array]) -> Array:
        """The features of rows, [rows, num_features]; compute is asked for those that are new, once for equal ones."""
        if not len(rows):
            return np.empty((0, self._num_features), self._dtype)
        digests = [_digest(row) for row in rows]
        # A connection a call: it may be any thread's, and SQLite's do not survive a fork.
        with closing(self._open()) as database:
            known = self._read(database, digests)
        fresh = {digest: index for index, digest in enumerate(digests) if digest not in known}
        if fresh:
            made = compute(rows[list(fresh.values())])
            known.update(zip(fresh, made, strict=True))
            with closing(self._open()) as database, database:
                values = [(self._function, digest, known[digest].tobytes()) for digest in fresh]
                database.executemany("INSERT OR IGNORE INTO features VALUES (?, ?, ?)", values)
        return np.stack([known[digest] for digest in digests])

    def _read(self, database: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, Array]:
        found: dict[bytes, Array] = {}
        wanted = list(dict.fromkeys(digests))
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT row, features FROM features WHERE function = ? AND row IN ({marks})"  # noqa: S608
            for digest, data in database.execute(query, [self._function, *some]):
                found[digest] = np.frombuffer(data, self._dtype)
        return found

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=_BUSY_S)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_SCHEMA)
        return database


def _digest(row: Array) -> bytes:
    head = f"{row.dtype.name}{row.shape}".encode()
    digest = hashlib.blake2b(head, digest_size=16)
    digest.update(row.reshape(-1).view(np.uint8).data)
    return digest.digest()
